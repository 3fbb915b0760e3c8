//! A session: one VM process with its streams and the user's, from start to end.
//!
//! Everything that happens comes as an [`Event`] from a thread that waits for it: a message of the VM
//! process, a signal, the end of a stream, the escape. One loop takes them in turn, so what a session does
//! next depends on nothing but what came so far ([`Session::take`]) and on the [`stop`] that may be under way.
//!
//! The terminal belongs to this process throughout; what the VM process does or how it ends cannot hurt it.

mod log;
mod outcome;
mod pump;
mod stop;

use std::io::{self, PipeReader, PipeWriter, Write};
use std::process::ExitStatus;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::Instant;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use viv_vmm::config::WindowSize;
use viv_vmm::process::Confinement;
use viv_vmm::protocol::{self, End, Figures, Message, Request};
use viv_vmm::{Controller, Fds, Launch, MachineConfig, VmProcess};

use self::log::SerialLog;
use self::stop::{Cause, Step, Stop};
use crate::cli::Output;
use crate::escape;
use crate::failure::{self, Failure};
use crate::progress::Spinner;
use crate::signals;
use crate::stats;
use crate::terminal::{self, RawTerminal};

pub use self::pump::Sink;

/// How many events wait to be taken: whoever has more waits with them.
const EVENTS: usize = 64;

/// What happens to a session.
#[derive(Debug)]
pub enum Event {
    /// The VM process said something.
    Vm(Message),
    /// The VM process is gone; how it ended.
    VmGone(io::Result<ExitStatus>),
    /// A signal asks this process to end.
    Signal(i32),
    /// The terminal has another size.
    Resized,
    /// The user pressed the escape.
    Escape,
    /// The terminal was hung up.
    TerminalClosed,
    /// Standard input cannot be read.
    InputFailed(io::Error),
    /// The guest closed an output, or it cannot be written on.
    OutputDone(Sink, io::Result<()>),
}

/// What a session is to run, and how it is joined to this process's streams.
#[derive(Debug)]
pub struct Plan {
    /// The machine.
    pub config: MachineConfig,
    /// The descriptors that the config names.
    pub fds: Fds,
    /// Where standard input goes.
    pub input: PipeWriter,
    /// What comes from the guest, and where it goes.
    pub outputs: Vec<(PipeReader, Sink)>,
    /// The serial port's output, where it is not one of `outputs`.
    pub serial: Option<PipeReader>,
    /// Whether the terminal is the guest's: raw, with a window that is followed.
    pub interactive: bool,
    /// What is typed on the guest's keyboard from the start.
    pub keys: Option<String>,
}

/// A running session.
#[derive(Debug)]
struct Session {
    /// The machine's name.
    name: String,
    controller: Controller,
    /// The VM process, to end it by force.
    process: rustix::fd::OwnedFd,
    events: SyncSender<Event>,
    interactive: bool,
    /// Where standard input goes, until the guest is ready to take it.
    input: Option<PipeWriter>,
    outputs_open: usize,
    /// What is to be typed on the guest's keyboard.
    keys: Option<String>,
    log: Option<SerialLog>,
    /// Whether an agent in the guest runs a command.
    agent: bool,
    spinner: Option<Spinner>,
    /// The engine, and why that one.
    engine: Option<String>,
    raw: Option<RawTerminal>,
    /// The machine was built, and asked to start.
    begun: bool,
    ready: bool,
    /// The status of the command, once it ended by itself.
    command: Option<u8>,
    failure: Option<Failure>,
    stop: Option<Stop>,
    figures: Option<Figures>,
    end: Option<End>,
    gone: Option<io::Result<ExitStatus>>,
}

/// Runs a session to its end, and returns its exit status. With `stats` it says what the machine did.
///
/// # Errors
/// When it cannot be started, or ends in a way that the guest did not choose.
pub fn run(plan: Plan, confinement: Confinement, stats: Option<Output>) -> Result<u8, Failure> {
    let (events, received) = mpsc::sync_channel(EVENTS);
    signals::forward(events.clone())?;
    let agent = plan.config.agent.is_some();
    let name = plan.config.name.clone();
    let vm = viv_vmm::spawn(&Launch::this_program(confinement), plan.config, plan.fds)
        .map_err(|error| Failure::of("starting the virtual machine", &error))?;
    let spinner = agent.then(|| Spinner::new(&format!("booting {name}")));

    let failed = |error: io::Error| Failure::of("following the virtual machine", &error);
    let process =
        Pid::from_raw(vm.id().cast_signed()).ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    let process = pidfd_open(process, PidfdFlags::empty()).map_err(|error| failed(error.into()))?;
    let controller = vm.controller();
    let outputs_open = plan.outputs.len();
    for (from_guest, sink) in plan.outputs {
        pump::output(from_guest, sink, events.clone()).map_err(failed)?;
    }
    let log = plan.serial.map(SerialLog::follow).transpose().map_err(failed)?;
    follow(vm, events.clone()).map_err(failed)?;

    let mut session = Session {
        name,
        controller,
        process,
        events,
        interactive: plan.interactive,
        input: Some(plan.input),
        outputs_open,
        keys: plan.keys,
        log,
        agent,
        spinner,
        engine: None,
        raw: None,
        begun: false,
        ready: false,
        command: None,
        failure: None,
        stop: None,
        figures: None,
        end: None,
        gone: None,
    };
    // Without an agent the guest's first word may be a question, so it gets the terminal from the start.
    if !agent {
        session.attach();
    }
    session.follow(&received);
    if let Some(form) = stats {
        // Where there is no standard error, nobody wants them.
        let _ = writeln!(io::stderr(), "{}", stats::text(form, session.figures));
    }
    outcome::of(session)
}

/// Reads what the VM process says until it is gone.
fn follow(mut vm: VmProcess, events: SyncSender<Event>) -> io::Result<()> {
    let follow = move || {
        loop {
            match vm.next_message() {
                Ok(Some(message)) => {
                    if events.send(Event::Vm(message)).is_err() {
                        return;
                    }
                }
                Ok(None) => break,
                Err(_) => {
                    // What it says is not the protocol, so it is not the process that was started any more.
                    let _ = vm.kill();
                    break;
                }
            }
        }
        let _ = events.send(Event::VmGone(vm.wait()));
    };
    thread::Builder::new().name("vm".into()).spawn(follow).map(drop)
}

impl Session {
    /// Takes events until the VM process is gone and everything that the guest said is written out.
    fn follow(&mut self, received: &Receiver<Event>) {
        while self.gone.is_none() || self.outputs_open > 0 {
            let deadline = self.stop.as_ref().and_then(Stop::deadline);
            let event = match deadline {
                Some(deadline) => received.recv_timeout(deadline.saturating_duration_since(Instant::now())),
                None => received.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match event {
                Ok(event) => self.take(event),
                Err(RecvTimeoutError::Timeout) => self.step_stop(),
                // Not while `self.events` lives.
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.gone.is_some() && self.stop.as_ref().is_some_and(Stop::is_impatient) {
                // Whoever reads the output does not, and the user waits no longer for it.
                return;
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Vm(Message::Reply { result: Ok(_), id }) => {
                // Request 0 was to build the machine.
                if id == 0 && !std::mem::replace(&mut self.begun, true) {
                    self.send(Request::Start);
                    if let Some(keys) = self.keys.take() {
                        self.send(Request::SendKeys { keys });
                    }
                }
            }
            Event::Vm(Message::Reply { result: Err(message), .. }) => {
                self.fail(Failure::line(message));
                self.send(Request::Stop);
            }
            Event::Vm(Message::Event(event)) => self.take_vm_event(event),
            Event::VmGone(status) => {
                self.gone = Some(status);
                self.detach();
            }
            Event::Signal(signal) => self.begin_stop(Cause::Signal(signal)),
            Event::Escape => self.begin_stop(Cause::Escape),
            Event::TerminalClosed => self.begin_stop(Cause::TerminalClosed),
            Event::Resized => {
                if let Some(size) = window() {
                    self.send(Request::Resize(size));
                }
            }
            Event::InputFailed(error) => {
                self.fail(Failure::of("reading standard input", &error));
                self.begin_stop(Cause::Failed);
            }
            Event::OutputDone(sink, result) => {
                self.outputs_open -= 1;
                self.output_done(sink, result);
            }
        }
    }

    fn take_vm_event(&mut self, event: protocol::Event) {
        match event {
            protocol::Event::Started { engine, why } => {
                tracing::info!(%engine, why, "the guest runs");
                if let Some(spinner) = &self.spinner {
                    spinner.say(&format!("booting {} on the {engine} engine", self.name));
                }
                self.engine = Some(format!("on the {engine} engine ({why})"));
            }
            protocol::Event::GuestReady => {
                self.ready = true;
                self.attach();
            }
            protocol::Event::CommandExited { code } => {
                // After a stop was asked for, a command is ended by the guest's shutdown.
                if self.stop.is_none() {
                    self.command = Some(code);
                }
                // The guest powers off, which is no session any more.
                self.detach();
            }
            protocol::Event::GuestError { message } => self.fail(Failure::new("in the guest", message)),
            protocol::Event::Warning { message } => self.say(&failure::one_line(&message)),
            protocol::Event::Restarted => tracing::info!("the guest was reset"),
            protocol::Event::WatchdogPaused => self.say(
                "the guest did not reset its watchdog in time, and stands still until it is told to go on",
            ),
            protocol::Event::Figures(figures) => self.figures = Some(figures),
            protocol::Event::Ended(end) => self.end = Some(end),
        }
    }

    fn output_done(&mut self, sink: Sink, result: io::Result<()>) {
        let Err(error) = result else { return };
        match (sink, error.kind()) {
            (Sink::Stdout, io::ErrorKind::BrokenPipe) => self.begin_stop(Cause::OutputClosed),
            // Nobody listens to complaints; the command may go on.
            (Sink::Stderr, io::ErrorKind::BrokenPipe) => {}
            _ if self.raw.is_some() && error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                self.begin_stop(Cause::TerminalClosed);
            }
            _ => {
                let stream = if sink == Sink::Stdout { "standard output" } else { "standard error" };
                self.fail(Failure::of(format!("writing the guest's output to {stream}"), &error));
                self.begin_stop(Cause::Failed);
            }
        }
    }

    /// Joins the user to the guest: from here on it gets what is typed.
    fn attach(&mut self) {
        self.spinner = None;
        let Some(input) = self.input.take() else { return };
        if self.interactive {
            let engine = self.engine.as_deref().unwrap_or("now");
            // Before the terminal is raw, so that the line ends as lines do.
            let _ = writeln!(
                io::stderr(),
                "viv: {} runs {engine}; leave with {}",
                self.name,
                escape::DESCRIPTION
            );
            match RawTerminal::enter() {
                Ok(raw) => self.raw = Some(raw),
                Err(failure) => {
                    self.fail(failure);
                    return self.begin_stop(Cause::Failed);
                }
            }
        }
        if let Err(error) = pump::input(input, self.interactive, self.events.clone()) {
            self.fail(Failure::of("reading standard input", &error));
            self.begin_stop(Cause::Failed);
        }
    }

    /// Says something while the guest runs, in a line of its own.
    fn say(&self, text: &str) {
        let (before, after) = if self.raw.is_some() { ("\r\n", "\r\n") } else { ("", "\n") };
        let _ = write!(io::stderr(), "{before}viv: {text}{after}");
    }

    /// Gives the terminal back.
    fn detach(&mut self) {
        self.spinner = None;
        self.raw = None;
    }

    /// Begins to stop the guest, or hastens the stop that is under way.
    fn begin_stop(&mut self, cause: Cause) {
        let now = Instant::now();
        match &mut self.stop {
            Some(stop) => stop.again(cause, now),
            None => {
                // A guest that is still booting does not listen to its power button, and has nothing to lose.
                let listens = self.ready || !self.agent;
                self.stop = Some(Stop::new(cause, listens, now));
            }
        }
        self.step_stop();
    }

    fn step_stop(&mut self) {
        match self.stop.as_mut().and_then(|stop| stop.next(Instant::now())) {
            Some(Step::PowerButton) => self.send(Request::PowerButton),
            Some(Step::Cut) => self.send(Request::Stop),
            Some(Step::Kill) => self.kill(),
            None => {}
        }
    }

    /// Keeps the first failure; those after it follow from it.
    fn fail(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
    }

    /// Sends a request. A VM process that is gone says so by [`Event::VmGone`]; one that does not listen is ended.
    fn send(&self, request: Request) {
        if let Err(error) = self.controller.send(request) {
            tracing::debug!(%error, "a request was not sent");
            self.kill();
        }
    }

    fn kill(&self) {
        // One that is gone already is what is wanted.
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
    }
}

/// The window's size as the protocol has it.
pub fn window() -> Option<WindowSize> {
    terminal::size().map(|(columns, rows)| WindowSize { rows, columns })
}
