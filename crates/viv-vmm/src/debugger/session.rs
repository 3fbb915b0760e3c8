//! One debugger, from its attaching to its leaving.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;

use gdbstub::common::Signal;
use gdbstub::conn::Connection;
use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{DisconnectReason, GdbStub, MultiThreadStopReason};
use viv_arch::{Rflags, SegmentRegister};
use viv_engine::{DebugControl, DebugStop, EngineError};

use super::Progress;
use super::breakpoints::{Kind, Place};
use super::connection::Stream;
use super::memory::MemoryView;
use super::physical::{Filter, Item};
use super::target::{Actions, Guest, thread};
use crate::error::MachineError;
use crate::machine::Machine;
use crate::protocol::End;

type Stub = GdbStubStateMachine<'static, Guest, Stream>;
type Reason = MultiThreadStopReason<u64>;

/// Bytes that debuggers send to interrupt the guest, and to say that they have received something.
const INTERRUPT: u8 = 3;
const ACK: u8 = b'+';

/// A debugger that has attached.
pub(super) struct Session {
    stream: Stream,
    filter: Filter,
    guest: Guest,
    /// `None` after an error.
    stub: Option<Stub>,
    /// Whether the debugger lets the guest run.
    running: bool,
    /// Where the last breakpoint was met: the vCPU and its RIP.
    met: Option<(usize, u64)>,
    /// Bytes watched that other vCPUs had reached when the guest stopped already.
    late: VecDeque<(usize, Place)>,
}

impl Session {
    /// A debugger at the other end of `stream` for a machine that is held.
    pub(super) fn new(stream: Stream, machine: &Machine) -> Self {
        let memory = MemoryView::new(machine.memory().clone(), machine.rom().cloned());
        let mut guest = Guest::new(machine.vcpus(), memory);
        let stub = GdbStub::new(stream.clone()).run_state_machine(&mut guest).ok();
        Self {
            stream,
            filter: Filter::default(),
            guest,
            stub,
            running: false,
            met: None,
            late: VecDeque::new(),
        }
    }

    /// Readable when the debugger has said something.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.fd()
    }

    /// Whether the debugger lets the guest run.
    pub(super) const fn is_running(&self) -> bool {
        self.running
    }

    /// Does what the debugger says.
    pub(super) fn ready(&mut self, machine: &mut Machine) -> Result<Progress, MachineError> {
        let mut room = [0; 4096];
        let bytes = match self.stream.receive(&mut room) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(Progress::On),
            Err(error) => {
                tracing::info!(%error, "a debugger's connection is lost");
                return Ok(Progress::Lost);
            }
        };
        let mut so_far = Progress::On;
        for &byte in bytes {
            let progress = match self.filter.take(byte) {
                None => Progress::On,
                Some(Item::Query) => self.say(if self.guest.memory.physical { "1" } else { "0" }),
                Some(Item::Set(physical)) => {
                    self.guest.memory.physical = physical;
                    self.say("OK")
                }
                Some(Item::Bytes(bytes)) => self.hear(&bytes, machine)?,
            };
            match progress {
                Progress::On => {}
                Progress::Reset | Progress::Resumed => so_far = progress,
                Progress::Detached | Progress::Lost | Progress::Killed => return Ok(progress),
            }
        }
        Ok(so_far)
    }

    /// vCPU `index` has stopped, and with it the machine.
    pub(super) fn stopped(&mut self, index: u32, stop: DebugStop) -> Progress {
        let index = usize::try_from(index).unwrap_or_default();
        let place = match stop {
            DebugStop::Step => None,
            DebugStop::Breakpoint(n) => self.guest.breakpoints.place(n),
        };
        if self.running {
            let reason = self.reason(index, place);
            return self.report(reason);
        }
        // Another vCPU was first. A breakpoint for instructions will be met again, a step was not asked for any more.
        self.late
            .extend(place.filter(|place| matches!(place.kind, Kind::Watch(_))).map(|place| (index, place)));
        Progress::On
    }

    /// vCPU `index` has shut down.
    pub(super) fn shut_down(&mut self, index: u32) -> Progress {
        let tid = thread(usize::try_from(index).unwrap_or_default());
        self.report(Reason::SignalWithThread { tid, signal: Signal::SIGSEGV })
    }

    /// The machine is over: tells the debugger, if it waits to be told.
    pub(super) fn finish(mut self, end: &End) {
        if self.running {
            self.report(match end {
                End::PoweredOff | End::Reset => Reason::Exited(0),
                End::Exited { status } => Reason::Exited(*status),
                End::Stopped => Reason::Terminated(Signal::SIGTERM),
                End::TripleFault(_) => Reason::Terminated(Signal::SIGSEGV),
                End::WatchdogExpired => Reason::Terminated(Signal::SIGALRM),
                End::Panicked | End::Failed { .. } => Reason::Terminated(Signal::SIGABRT),
            });
        }
    }

    /// Takes away what the debugger has set. The machine is held.
    pub(super) fn forget(&self) -> Result<(), EngineError> {
        for handle in self.guest.vcpus() {
            handle.set_frozen(false);
            handle.vcpu().set_debug(&DebugControl::default())?;
        }
        Ok(())
    }

    /// Sends a packet of our own.
    fn say(&mut self, payload: &str) -> Progress {
        let packet = self.filter.reply(payload);
        let sent = self.stream.write_all(&packet).and_then(|()| self.stream.flush());
        if sent.is_ok() { Progress::On } else { Progress::Lost }
    }

    fn hear(&mut self, bytes: &[u8], machine: &mut Machine) -> Result<Progress, MachineError> {
        let mut so_far = Progress::On;
        for &byte in bytes {
            let stub = match self.stub.take() {
                Some(Stub::Idle(stub)) => stub.incoming_data(&mut self.guest, byte),
                // vCPUs that run cannot be asked anything.
                Some(Stub::Running(stub)) if matches!(byte, INTERRUPT | ACK) => {
                    stub.incoming_data(&mut self.guest, byte)
                }
                _ => {
                    tracing::warn!("a debugger spoke out of turn");
                    return Ok(Progress::Lost);
                }
            };
            let stub = match stub {
                Ok(stub) => stub,
                Err(error) => {
                    tracing::warn!(%error, "a debugger's connection is given up");
                    return Ok(Progress::Lost);
                }
            };
            match self.settle(stub, machine)? {
                Progress::On => {}
                progress @ (Progress::Reset | Progress::Resumed) => so_far = progress,
                progress => return Ok(progress),
            }
        }
        Ok(so_far)
    }

    /// Does what follows from the state that the protocol has come to.
    fn settle(&mut self, stub: Stub, machine: &mut Machine) -> Result<Progress, MachineError> {
        let stub = match stub {
            Stub::Disconnected(stub) => {
                return Ok(match stub.get_reason() {
                    DisconnectReason::Kill => Progress::Killed,
                    DisconnectReason::Disconnect => Progress::Detached,
                    DisconnectReason::TargetExited(_) | DisconnectReason::TargetTerminated(_) => {
                        Progress::Lost
                    }
                });
            }
            Stub::CtrlCInterrupt(stub) => {
                machine.hold();
                let was_running = std::mem::take(&mut self.running);
                let interrupted = Reason::SignalWithThread { tid: thread(0), signal: Signal::SIGINT };
                match stub.interrupt_handled(&mut self.guest, was_running.then_some(interrupted)) {
                    Ok(stub) => stub,
                    Err(_) => return Ok(Progress::Lost),
                }
            }
            stub => stub,
        };
        self.stub = Some(stub);
        if std::mem::take(&mut self.guest.wants_reset) {
            return Ok(Progress::Reset);
        }
        match self.guest.resumption.take() {
            Some(actions) => self.resume(&actions, machine),
            None => Ok(Progress::On),
        }
    }

    /// Lets the guest go on.
    fn resume(&mut self, actions: &Actions, machine: &mut Machine) -> Result<Progress, MachineError> {
        self.running = true;
        let met = self.met.take();
        while let Some((index, place)) = self.late.pop_front() {
            if self.guest.breakpoints.contains(place) {
                let reason = self.reason(index, Some(place));
                return Ok(self.report(reason));
            }
        }
        if let Some((index, rip)) = met {
            self.pass(index, rip)?;
        }
        for (index, handle) in self.guest.vcpus().iter().enumerate() {
            handle.set_frozen(!actions.runs(index));
            handle.vcpu().set_debug(&self.guest.breakpoints.control(actions.steps(index)))?;
        }
        machine.release();
        Ok(Progress::Resumed)
    }

    /// Lets vCPU `index` pass the breakpoint at which it stands, if it is still at `rip`. Debuggers step away from
    /// breakpoints by themselves, but do not know them again where linear addresses are not what RIP holds.
    fn pass(&self, index: usize, rip: u64) -> Result<(), EngineError> {
        let is_there = |state: &viv_arch::VcpuState| {
            state.rip == rip && state.segments[SegmentRegister::Cs as usize].base != 0
        };
        if !self.guest.state(index).is_some_and(|state| is_there(&state)) {
            return Ok(());
        }
        self.guest.change(index, |state| state.rflags |= Rflags::RF)
    }

    /// Why vCPU `index` has stopped, at `place` or after a step.
    fn reason(&mut self, index: usize, place: Option<Place>) -> Reason {
        let tid = thread(index);
        let Some(place) = place else {
            return Reason::SignalWithThread { tid, signal: Signal::SIGTRAP };
        };
        if let Kind::Watch(kind) = place.kind {
            return Reason::Watch { tid, kind, addr: place.address };
        }
        self.met = self.guest.state(index).map(|state| (index, state.rip));
        if place.kind == Kind::Software { Reason::SwBreak(tid) } else { Reason::HwBreak(tid) }
    }

    /// Tells the debugger why the guest has stopped.
    fn report(&mut self, reason: Reason) -> Progress {
        let Some(Stub::Running(stub)) = self.stub.take() else { return Progress::Lost };
        match stub.report_stop(&mut self.guest, reason) {
            Ok(stub) => {
                self.stub = Some(stub);
                self.running = false;
                Progress::On
            }
            Err(error) => {
                tracing::warn!(%error, "a debugger cannot be told that the guest has stopped");
                Progress::Lost
            }
        }
    }
}
