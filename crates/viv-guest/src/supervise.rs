//! The program's life.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process_group, wait};
use rustix::termios::{Winsize, tcsetwinsize};
use viv_guest_proto::{GuestMessage, HostMessage, Run, VERSION, WindowSize};

use crate::link::{Link, ReceiveError};
use crate::{launch, network, plan, pmem, power, pump, report, share};

/// The console device that serves as terminal.
const TERMINAL: &str = "/dev/hvc0";
/// How long processes may take to end when asked, before they are killed.
const GRACE: Duration = Duration::from_secs(5);

/// What the supervisor waits for.
#[derive(Debug)]
pub(crate) enum Event {
    /// The host says something.
    Message(HostMessage),
    /// The host will say nothing more.
    HostGone(ReceiveError),
    /// A process has ended, of those started here or orphaned.
    Ended(Pid, WaitStatus),
    /// No process is left.
    Childless,
    /// All that was written to one output stream is with the host.
    OutputDone,
}

/// Offers the host this guest, runs the program it asks for, and tells it the exit status.
pub(crate) fn run(link: &mut Link) {
    let (sender, events) = mpsc::channel();
    if let Err(error) = listen(link, sender.clone()) {
        return fail(link, &format!("listening to the host: {error}"));
    }
    link.control.tell(&GuestMessage::Ready { version: VERSION });
    let Some(run) = order(&events) else { return };
    match start(&run, link, &sender) {
        Ok(program) => {
            let code = program.attend(&events);
            link.control.tell(&GuestMessage::Exited { code });
        }
        Err(error) => fail(link, &format!("starting the program: {error}")),
    }
}

fn fail(link: &mut Link, message: &str) {
    report::problem(message);
    link.control.tell(&GuestMessage::Failed { message: message.into() });
}

/// Turns the host's messages into events.
fn listen(link: &Link, events: Sender<Event>) -> io::Result<()> {
    let mut receiver = link.control.receiver()?;
    thread::Builder::new().name("control".into()).spawn(move || {
        loop {
            let (event, last) = match receiver.receive() {
                Ok(message) => (Event::Message(message), false),
                Err(error) => (Event::HostGone(error), true),
            };
            if events.send(event).is_err() || last {
                return;
            }
        }
    })?;
    Ok(())
}

/// Waits to be told what to run; `None` if it is nothing.
fn order(events: &Receiver<Event>) -> Option<Run> {
    loop {
        match events.recv().ok()? {
            Event::Message(HostMessage::Run(run)) => return Some(run),
            Event::Message(HostMessage::Shutdown) => return None,
            Event::HostGone(error) => {
                report::problem(&report::chain(&error));
                return None;
            }
            Event::Message(HostMessage::Resize(_) | HostMessage::Signal(_))
            | Event::Ended(..)
            | Event::Childless
            | Event::OutputDone => {}
        }
    }
}

/// Starts the program, and the threads that serve it.
fn start(run: &Run, link: &Link, events: &Sender<Event>) -> io::Result<Program> {
    if let Some(name) = hostname(run) {
        rustix::system::sethostname(name.as_bytes())?;
    }
    network::set_up(&run.interfaces);
    share::mount_all(&run.mounts)?;
    pmem::set_up();
    let terminal = match &run.terminal {
        Some(wanted) => {
            // Stays open until the program has it: the last close would forget the size.
            let terminal = open_terminal()?;
            if let Some(size) = wanted.size {
                tcsetwinsize(&terminal, winsize(size))?;
            }
            Some(terminal)
        }
        None => None,
    };
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let mut child = launch::command(&plan::program(run, &passwd), plan::directory(run), terminal)?
        .envs(plan::environment(run, &passwd))
        .spawn()?;
    let pid = Pid::from_child(&child);

    let mut outputs = 0;
    if let Some(pipe) = child.stdin.take() {
        pump::input(link.stdin.try_clone()?, pipe)?;
    }
    if let Some(pipe) = child.stdout.take() {
        pump::output("stdout", pipe, link.stdout.try_clone()?, events.clone())?;
        outputs += 1;
    }
    if let Some(pipe) = child.stderr.take() {
        pump::output("stderr", pipe, link.stderr.try_clone()?, events.clone())?;
        outputs += 1;
    }
    // From here on the reaper waits for this child too; there is no other wait it could get in the way of.
    reap(events.clone())?;
    Ok(Program { pid, outputs, on_terminal: run.terminal.is_some() })
}

/// Collects every process that ends, as is the first process's duty, until there is none.
fn reap(events: Sender<Event>) -> io::Result<()> {
    thread::Builder::new().name("reaper".into()).spawn(move || {
        loop {
            let event = match wait(WaitOptions::empty()) {
                Ok(Some((pid, status))) => Event::Ended(pid, status),
                Ok(None) | Err(Errno::INTR) => continue,
                Err(_) => Event::Childless,
            };
            let last = matches!(event, Event::Childless);
            if events.send(event).is_err() || last {
                return;
            }
        }
    })?;
    Ok(())
}

/// The host's name for this guest, else the image's.
fn hostname(run: &Run) -> Option<String> {
    let name = run.hostname.clone().or_else(|| fs::read_to_string("/etc/hostname").ok())?;
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

fn open_terminal() -> io::Result<File> {
    let flags = OFlags::NOCTTY.bits().cast_signed();
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(TERMINAL)
}

fn resize(size: WindowSize) -> io::Result<()> {
    // Opened anew each time: the end of a session hangs up every descriptor of its terminal.
    Ok(tcsetwinsize(open_terminal()?, winsize(size))?)
}

fn winsize(size: WindowSize) -> Winsize {
    Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 }
}

/// The program while it runs.
#[derive(Debug)]
struct Program {
    /// Its process, which leads a session and a process group.
    pid: Pid,
    /// Output streams that are still open.
    outputs: usize,
    /// Whether it runs on the terminal.
    on_terminal: bool,
}

impl Program {
    /// Stays until the program and everything it left behind have ended and the host has all output.
    /// Returns the exit status.
    fn attend(mut self, events: &Receiver<Event>) -> u8 {
        let mut code = None;
        let mut childless = false;
        let mut hurry = false;
        let mut deadline = None;
        loop {
            if let (Some(code), true) = (code, childless)
                && (self.outputs == 0 || hurry)
            {
                return code;
            }
            match next(events, deadline) {
                Ok(Event::Message(HostMessage::Signal(number))) => self.signal(number),
                Ok(Event::Message(HostMessage::Resize(size))) => {
                    if let Err(error) = resize(size) {
                        report::problem(&format!("setting the terminal's size: {error}"));
                    }
                }
                Ok(Event::Message(HostMessage::Run(_))) => {
                    report::problem("the host asked for a second program; one is all there is");
                }
                Ok(Event::Message(HostMessage::Shutdown) | Event::HostGone(_)) => {
                    // Nobody may be reading any more, so output is not waited for.
                    hurry = true;
                    power::ask_all_to_end();
                    if self.on_terminal {
                        // Interactive shells ignore SIGTERM, and go with their terminal.
                        let _ = kill_process_group(self.pid, Signal::HUP);
                    }
                    deadline = Some(Instant::now() + GRACE);
                }
                Ok(Event::Ended(pid, status)) => {
                    if pid == self.pid {
                        code = Some(exit_code(status));
                        // What it left in the background ends with it.
                        power::ask_all_to_end();
                        deadline = Some(Instant::now() + GRACE);
                    }
                }
                Ok(Event::Childless) => childless = true,
                Ok(Event::OutputDone) => self.outputs = self.outputs.saturating_sub(1),
                Err(RecvTimeoutError::Timeout) => {
                    power::kill_all();
                    deadline = None;
                }
                // The supervisor holds a sender itself.
                Err(RecvTimeoutError::Disconnected) => return code.unwrap_or_default(),
            }
        }
    }

    fn signal(&self, number: u8) {
        match Signal::from_named_raw(number.into()) {
            // A program that has just ended cannot be signalled, and need not be.
            Some(signal) => drop(kill_process_group(self.pid, signal)),
            None => report::problem(&format!("the host sent signal {number}, which is none")),
        }
    }
}

fn next(events: &Receiver<Event>, deadline: Option<Instant>) -> Result<Event, RecvTimeoutError> {
    match deadline {
        Some(deadline) => events.recv_timeout(deadline.saturating_duration_since(Instant::now())),
        None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
    }
}

/// The exit status in the shell's manner (POSIX, shell command language 2.8.2).
fn exit_code(status: WaitStatus) -> u8 {
    let number = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => signal.saturating_add(128),
        (None, None) => return u8::MAX,
    };
    u8::try_from(number).unwrap_or(u8::MAX)
}
