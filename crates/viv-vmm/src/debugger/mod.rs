//! A debugger for the guest, by gdb's remote protocol.
//!
//! It is served by the thread that owns the machine, between requests and notices: `gdbstub` speaks the protocol, one byte
//! after the other, and what it asks of the guest is asked while all vCPUs stand still. A vCPU is a thread to the
//! debugger, numbered from 1; all of them stop when one does.
//!
//! The guest begins held, until a debugger has attached and lets it go. A debugger that detaches lets it run. One whose
//! connection is lost leaves it as it was, running or held, without its breakpoints; another may attach.
//!
//! Whoever has the connection has the guest, but must get no further: what is not the protocol ends the connection.

mod arch;
mod breakpoints;
mod connection;
mod memory;
mod monitor;
mod paging;
mod physical;
mod registers;
mod session;
mod target;

#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use viv_engine::DebugStop;

use self::session::Session;
use crate::error::MachineError;
use crate::machine::Machine;
use crate::protocol::End;

/// Where debuggers attach, and the one that has.
pub(crate) struct Debugger {
    listener: OwnedFd,
    session: Option<Session>,
    /// How the machine ends once the debugger lets it go.
    end: Option<End>,
}

/// What a debugger asks of the machine's owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wish {
    /// To end the machine.
    End(End),
    /// To reset it.
    Reset,
}

/// What a session has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// It goes on.
    On,
    /// It goes on once the machine was reset.
    Reset,
    /// The debugger let the guest go on.
    Resumed,
    /// The debugger has left, the guest is to run.
    Detached,
    /// The connection is lost, or was of no more use.
    Lost,
    /// The debugger wants the guest's end.
    Killed,
}

impl Debugger {
    /// Debuggers attach to `listener`. Holds the machine, which is not started yet.
    pub(crate) fn new(listener: OwnedFd, machine: &mut Machine) -> Self {
        machine.hold();
        Self { listener, session: None, end: None }
    }

    /// Readable when there is something to do.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.session.as_ref().map_or(self.listener.as_fd(), Session::fd)
    }

    /// Does it.
    ///
    /// # Errors
    /// When the engine fails.
    pub(crate) fn ready(&mut self, machine: &mut Machine) -> Result<Option<Wish>, MachineError> {
        let Some(session) = &mut self.session else {
            match connection::accept(&self.listener) {
                Ok(stream) => {
                    machine.hold();
                    self.session = Some(Session::new(stream, machine));
                }
                Err(error) => tracing::warn!(%error, "a debugger could not attach"),
            }
            return Ok(None);
        };
        let progress = session.ready(machine)?;
        self.settle(progress, machine)
    }

    /// vCPU `index` has stopped for the debugger.
    ///
    /// # Errors
    /// When the engine fails.
    pub(crate) fn stopped(
        &mut self,
        index: u32,
        stop: DebugStop,
        machine: &mut Machine,
    ) -> Result<Option<Wish>, MachineError> {
        let Some(session) = &mut self.session else {
            // It came while the debugger left.
            machine.release_notice();
            return Ok(None);
        };
        machine.hold();
        let progress = session.stopped(index, stop);
        self.settle(progress, machine)
    }

    /// A vCPU has shut down. If a debugger is there to look at it, the machine's `end` waits until it has.
    ///
    /// # Errors
    /// When the engine fails.
    pub(crate) fn shut_down(
        &mut self,
        index: u32,
        end: End,
        machine: &mut Machine,
    ) -> Result<Option<Wish>, MachineError> {
        let Some(session) = self.session.as_mut().filter(|session| session.is_running()) else {
            return Ok(Some(Wish::End(end)));
        };
        machine.hold();
        self.end = Some(end);
        let progress = session.shut_down(index);
        self.settle(progress, machine)
    }

    /// The machine was reset.
    pub(crate) fn reset(&mut self) {
        self.end = None;
    }

    /// The machine is over: tells the debugger, and lets go of the vCPUs.
    pub(crate) fn finish(self, end: &End) {
        if let Some(session) = self.session {
            session.finish(end);
        }
    }

    fn settle(&mut self, progress: Progress, machine: &mut Machine) -> Result<Option<Wish>, MachineError> {
        match progress {
            Progress::On => Ok(None),
            Progress::Reset => Ok(Some(Wish::Reset)),
            Progress::Resumed => Ok(self.end.take().map(Wish::End)),
            Progress::Killed => {
                self.session = None;
                Ok(Some(Wish::End(End::Stopped)))
            }
            Progress::Detached | Progress::Lost => {
                let Some(session) = self.session.take() else { return Ok(None) };
                let runs = progress == Progress::Detached || session.is_running();
                machine.hold();
                session.forget()?;
                if runs {
                    machine.release();
                }
                Ok(self.end.take().filter(|_| runs).map(Wish::End))
            }
        }
    }
}
