//! Requests in, events out, until the machine's end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags};
use rustix::net::{RecvFlags, SendFlags};
use viv_engine::{Engine, EngineKind};
use viv_jail::{Inmate, Inside};

use super::files::{restore, save, screenshot};
use super::outgoing::Outgoing;
use crate::MachineError;
use crate::channel::{ChannelError, Filled, LineReader};
use crate::config::{EngineChoice, Fds, MachineConfig, WatchdogAction};
use crate::debugger::{Debugger, Wish};
use crate::engine::{ChoiceError, Decision};
use crate::error::chain;
use crate::keys::Keystrokes;
use crate::machine::{Machine, Notice, Opened};
use crate::protocol::{End, Event, MachineState, Message, Reply, Request, RequestLine, VERSION};

/// Makes the engine for a choice and options.
type MakeEngine<'a> = &'a dyn Fn(EngineChoice, &[String]) -> Result<(Box<dyn Engine>, Decision), ChoiceError>;

/// How many notices of the machine's are dealt with before requests are.
const NOTICES: usize = 64;

/// The VM process between two messages.
pub(super) struct Server<'a> {
    control: OwnedFd,
    /// Readable on SIGTERM.
    terminate: UnixStream,
    make_engine: MakeEngine<'a>,
    incoming: LineReader,
    outgoing: Outgoing,
    /// This process before it goes to jail, if it is to.
    inmate: Option<Inmate>,
    machine: Option<Machine>,
    debugger: Option<Debugger>,
    decision: Option<Decision>,
    no_reboot: bool,
    watchdog: Option<WatchdogAction>,
    /// The starter has gone: nobody reads any more.
    alone: bool,
    end: Option<End>,
}

/// What there is to do.
#[derive(Debug, Clone, Copy)]
struct Ready {
    control: bool,
    writable: bool,
    terminate: bool,
    debugger: bool,
}

impl<'a> Server<'a> {
    pub(super) fn new(
        control: OwnedFd,
        terminate: UnixStream,
        make_engine: MakeEngine<'a>,
        inmate: Option<Inmate>,
    ) -> Self {
        Self {
            control,
            terminate,
            make_engine,
            incoming: LineReader::default(),
            outgoing: Outgoing::default(),
            inmate,
            machine: None,
            debugger: None,
            decision: None,
            no_reboot: false,
            watchdog: None,
            alone: false,
            end: None,
        }
    }

    /// Serves until the machine is over, and says how it ended.
    pub(super) fn run(mut self) -> End {
        let mut end = loop {
            if let Some(end) = self.end.take() {
                break end;
            }
            if let Err(error) = self.turn() {
                break End::Failed { message: chain(&error) };
            }
        };
        if let Some(debugger) = self.debugger.take() {
            debugger.finish(&end);
        }
        if let Some(machine) = &mut self.machine {
            machine.stop();
            // What went wrong before is worth more to know.
            if let Err(error) = machine.leave_picture()
                && !matches!(end, End::Failed { .. })
            {
                end = End::Failed { message: error.line() };
            }
        }
        let figures = self.machine.as_ref().and_then(Machine::figures);
        // Output is complete when the guest has powered off; cutting the power gives it up.
        if end != End::Stopped {
            self.write_out();
        }
        if !self.alone {
            // A starter that has gone meanwhile needs no last message.
            if let Some(figures) = figures {
                self.event(Event::Figures(figures));
            }
            self.event(Event::Ended(end.clone()));
            let _ = self.outgoing.flush(self.control.as_fd(), SendFlags::empty());
        }
        end
    }

    /// Waits for something and deals with it.
    fn turn(&mut self) -> Result<(), ChannelError> {
        // What is not started yet is nothing to look at.
        let debugger = self.debugger.as_ref().filter(|_| {
            self.machine.as_ref().is_some_and(|machine| machine.state() != MachineState::Created)
        });
        let ready = self.wait(self.machine.as_ref().map(Machine::noticed), debugger.map(Debugger::fd))?;
        if ready.terminate {
            self.end = Some(End::Stopped);
            return Ok(());
        }
        if ready.writable {
            self.outgoing.flush(self.control.as_fd(), SendFlags::DONTWAIT)?;
        }
        self.take_notices()?;
        if ready.debugger && self.end.is_none() {
            self.debug(Debugger::ready);
        }
        if ready.control && self.end.is_none() {
            self.take_requests()?;
        }
        Ok(())
    }

    /// Waits until the socket, the signal, `other` or the debugger is ready.
    fn wait(
        &self,
        other: Option<BorrowedFd<'_>>,
        debugger: Option<BorrowedFd<'_>>,
    ) -> Result<Ready, ChannelError> {
        let mut interest = PollFlags::IN;
        if !self.outgoing.is_empty() {
            interest |= PollFlags::OUT;
        }
        let mut fds = vec![PollFd::new(&self.control, interest), PollFd::new(&self.terminate, PollFlags::IN)];
        fds.extend(debugger.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        fds.extend(other.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, None))
            .map_err(|errno| ChannelError::Socket { action: "waiting", source: errno.into() })?;
        let [control, terminate, others @ ..] = fds.as_slice() else {
            return Ok(Ready { control: false, writable: false, terminate: false, debugger: false });
        };
        let first = others.first().filter(|_| debugger.is_some());
        let hung_up = PollFlags::HUP | PollFlags::ERR;
        Ok(Ready {
            control: control.revents().intersects(PollFlags::IN | hung_up),
            writable: control.revents().contains(PollFlags::OUT),
            terminate: !terminate.revents().is_empty(),
            debugger: first.is_some_and(|debugger| !debugger.revents().is_empty()),
        })
    }

    /// Waits for the streams of a machine that is over to be written, as long as the starter wants it.
    fn write_out(&mut self) {
        let Some(machine) = self.machine.take() else { return };
        while !machine.is_drained() {
            let Ok(ready) = self.wait(Some(machine.drained().as_fd()), None) else { return };
            machine.drained().clear();
            if ready.terminate {
                return;
            }
            if ready.writable && self.outgoing.flush(self.control.as_fd(), SendFlags::DONTWAIT).is_err() {
                self.alone = true;
                return;
            }
            if ready.control && self.give_up() {
                return;
            }
        }
    }

    /// Takes requests to a machine that is over, and says whether to wait for it no longer.
    fn give_up(&mut self) -> bool {
        match self.incoming.fill(self.control.as_fd(), RecvFlags::DONTWAIT) {
            Ok(Filled::Some | Filled::WouldBlock) => {}
            Ok(Filled::End) | Err(_) => {
                self.alone = true;
                return true;
            }
        }
        while let Ok(Some(RequestLine { id, request })) = self.incoming.take() {
            let stop = request == Request::Stop;
            let result = if stop { Ok(Reply::Done) } else { Err("the machine is over".to_owned()) };
            let sent = self.outgoing.send(self.control.as_fd(), &Message::Reply { id, result });
            if stop || sent.is_err() {
                return true;
            }
        }
        false
    }

    fn take_requests(&mut self) -> Result<(), ChannelError> {
        match self.incoming.fill(self.control.as_fd(), RecvFlags::DONTWAIT)? {
            Filled::WouldBlock => return Ok(()),
            Filled::End => {
                self.alone = true;
                self.end = Some(End::Stopped);
                return Ok(());
            }
            Filled::Some => {}
        }
        while self.end.is_none()
            && let Some(RequestLine { id, request }) = self.incoming.take()?
        {
            let result = self.serve(request).map_err(|error| error.line());
            self.send(&Message::Reply { id, result })?;
        }
        Ok(())
    }

    fn serve(&mut self, request: Request) -> Result<Reply, MachineError> {
        let done = |()| Reply::Done;
        match request {
            Request::Create { version, config } => {
                let created = self.create(version, &config);
                self.end_unless_ok(created).map(done)
            }
            Request::Start => {
                let started = self.machine().and_then(Machine::start);
                self.end_unless_ok(started)?;
                self.started();
                Ok(Reply::Done)
            }
            Request::Restore => {
                let file = self.incoming.take_fd();
                let restored = self.machine().and_then(|machine| restore(machine, file));
                self.end_unless_ok(restored)?;
                self.started();
                Ok(Reply::Done)
            }
            Request::Pause => self.machine()?.pause().map(done),
            Request::Resume => self.machine()?.resume().map(done),
            Request::PowerButton => self.machine()?.press_power_button().map(done),
            Request::Reset => {
                self.reset()?;
                Ok(Reply::Done)
            }
            Request::Stop => {
                self.end = Some(End::Stopped);
                Ok(Reply::Done)
            }
            Request::Resize(size) => {
                self.machine()?.resize(size);
                Ok(Reply::Done)
            }
            Request::Status => self.machine().map(|machine| Reply::Status(machine.status())),
            Request::Resources => {
                self.machine().map(|machine| Reply::Resources(Box::new(machine.resources())))
            }
            Request::Balloon { bytes } => self.machine()?.set_balloon(bytes).map(done),
            Request::Memory { bytes } => self.machine()?.set_memory(bytes).map(done),
            Request::Vcpus { count } => self.machine()?.set_vcpus(count).map(done),
            Request::Screenshot => {
                let file = self.incoming.take_fd();
                self.machine().and_then(|machine| screenshot(machine, file)).map(done)
            }
            Request::ScreenText => self.machine().and_then(|machine| machine.screen_text()).map(Reply::Text),
            Request::SendKeys { keys } => {
                let keys: Keystrokes = keys.parse()?;
                self.machine().and_then(|machine| machine.send_keys(&keys)).map(done)
            }
            Request::Save => {
                let file = self.incoming.take_fd();
                self.machine().and_then(|machine| save(machine, file)).map(done)
            }
        }
    }

    fn create(&mut self, version: u32, config: &MachineConfig) -> Result<(), MachineError> {
        if version != VERSION {
            return Err(MachineError::ProtocolVersion { found: version });
        }
        if let Some(machine) = &self.machine {
            return Err(MachineError::State { action: "create again", state: machine.state() });
        }
        let fds: Fds = self.incoming.take_fds();
        let (engine, decision) = (self.make_engine)(config.engine, &config.engine_options)?;
        let opened = Opened::open(config, &fds)?;
        let inside = Inside {
            kvm: engine.kind() == EngineKind::Kvm,
            network: opened.is_on_network(),
            connections: config.connections(),
            largest_file: opened.largest_file(),
        };
        let jail = self.inmate.take().map(|inmate| inmate.enter(inside));
        let mut machine = Machine::assemble(config, &fds, opened, &*engine, &decision.reason)?;
        if let Some(slot) = config.gdb {
            self.debugger = Some(Debugger::new(fds.get(slot)?, &mut machine));
        }
        // Closed before it is counted what is open.
        drop(fds);
        match jail {
            Some(jail) => {
                let missing = jail.lock()?;
                tracing::debug!(?missing, "the machine is in its jail");
            }
            None if inside.network => viv_jail::permit_sockets(),
            None => {}
        }
        self.machine = Some(machine);
        self.decision = Some(decision);
        self.no_reboot = config.no_reboot;
        self.watchdog = config.watchdog;
        Ok(())
    }

    /// A machine that cannot be made or started is of no use: the process ends with the reason.
    fn end_unless_ok(&mut self, result: Result<(), MachineError>) -> Result<(), MachineError> {
        if let Err(error) = &result
            && !matches!(error, MachineError::State { .. })
        {
            self.end = Some(End::Failed { message: error.line() });
        }
        result
    }

    fn machine(&mut self) -> Result<&mut Machine, MachineError> {
        self.machine.as_mut().ok_or(MachineError::NoMachine)
    }

    fn reset(&mut self) -> Result<(), MachineError> {
        let reset = self.machine().and_then(Machine::reset);
        self.end_unless_ok(reset)?;
        if let Some(debugger) = &mut self.debugger {
            debugger.reset();
        }
        self.event(Event::Restarted);
        Ok(())
    }

    fn started(&mut self) {
        if let Some(Decision { engine, reason, .. }) = self.decision.clone() {
            self.event(Event::Started { engine, why: reason });
        }
    }

    /// Deals with what the machine cannot decide, some of it: whoever sends requests has his turn too.
    fn take_notices(&mut self) -> Result<(), ChannelError> {
        for _ in 0..NOTICES {
            if self.end.is_some() {
                break;
            }
            let Some(notice) = self.machine.as_ref().and_then(Machine::take_notice) else { break };
            match notice {
                Notice::Reset if self.no_reboot => self.end = Some(End::Reset),
                Notice::Reset => {
                    let done = self.reset();
                    self.end_unless(done);
                }
                Notice::CpuEjected => {
                    let done = self.machine().and_then(Machine::vcpu_ejected);
                    self.end_unless(done);
                }
                Notice::PowerOff => self.end = Some(End::PoweredOff),
                Notice::Exit(status) => self.end = Some(End::Exited { status }),
                Notice::Panicked => self.end = Some(End::Panicked),
                Notice::WatchdogExpired => self.watchdog_expired(),
                Notice::TripleFault(fault) if self.debugger.is_some() => {
                    let (vcpu, end) = (fault.vcpu, End::TripleFault(fault));
                    self.debug(|debugger, machine| debugger.shut_down(vcpu, end, machine));
                }
                Notice::TripleFault(fault) => self.end = Some(End::TripleFault(fault)),
                Notice::Debug { vcpu, stop } => {
                    self.debug(|debugger, machine| debugger.stopped(vcpu, stop, machine));
                }
                Notice::Failed(message) => self.end = Some(End::Failed { message }),
                Notice::Warning(message) => self.send(&Message::Event(Event::Warning { message }))?,
                Notice::GuestReady => self.send(&Message::Event(Event::GuestReady))?,
                Notice::CommandExited(code) => self.send(&Message::Event(Event::CommandExited { code }))?,
                Notice::GuestError(message) => {
                    self.send(&Message::Event(Event::GuestError { message }))?;
                }
            }
        }
        Ok(())
    }

    /// Does what the config says of a watchdog that has expired.
    fn watchdog_expired(&mut self) {
        let done = match self.watchdog {
            Some(WatchdogAction::Reset) if !self.no_reboot => self.reset(),
            Some(WatchdogAction::Pause) => {
                let paused = self.machine().map(Machine::pause_on_notice);
                self.event(Event::WatchdogPaused);
                paused
            }
            Some(WatchdogAction::Reset | WatchdogAction::PowerOff) | None => {
                self.end = Some(End::WatchdogExpired);
                Ok(())
            }
        };
        self.end_unless(done);
    }

    /// Has the debugger do something, and does what it wishes then.
    fn debug(&mut self, act: impl FnOnce(&mut Debugger, &mut Machine) -> Result<Option<Wish>, MachineError>) {
        let (Some(debugger), Some(machine)) = (&mut self.debugger, &mut self.machine) else { return };
        let done = act(debugger, machine).and_then(|wish| match wish {
            None => Ok(()),
            Some(Wish::End(end)) => {
                self.end = Some(end);
                Ok(())
            }
            Some(Wish::Reset) => self.reset(),
        });
        self.end_unless(done);
    }

    /// Ends with what the machine could not do.
    fn end_unless(&mut self, done: Result<(), MachineError>) {
        if let Err(error) = done {
            self.end.get_or_insert(End::Failed { message: error.line() });
        }
    }

    fn event(&mut self, event: Event) {
        // What the socket says will be said again by the next use of it.
        let _ = self.send(&Message::Event(event));
    }

    fn send(&mut self, message: &Message) -> Result<(), ChannelError> {
        self.outgoing.send(self.control.as_fd(), message)
    }
}
