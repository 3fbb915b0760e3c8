//! What all threads of a machine share: the gate, and the notes for the machine's owner.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use viv_devices::system::{SystemControl, SystemRequest};
use viv_engine::{DebugStop, Kick};

use super::gate::Gate;
use super::notify::Notify;
use crate::protocol::TripleFault;

/// Something that a machine's threads leave for its owner to know or to decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The guest asks to be reset.
    Reset,
    /// The guest asks to be switched off.
    PowerOff,
    /// The guest has ejected a processor.
    CpuEjected,
    /// The guest ends the machine with this status.
    Exit(u8),
    /// The guest's kernel has panicked.
    Panicked,
    /// The guest has not reset its watchdog in time.
    WatchdogExpired,
    /// A processor has come to where the debugger wants it to stop.
    Debug {
        /// The vCPU.
        vcpu: u32,
        /// Why there.
        stop: DebugStop,
    },
    /// The guest shut a processor down.
    TripleFault(TripleFault),
    /// The machine goes on with less than it had; one line.
    Warning(String),
    /// The machine cannot go on; one line.
    Failed(String),
    /// The guest's agent is there.
    GuestReady,
    /// The agent's command has ended with this status.
    CommandExited(u8),
    /// The guest's agent cannot do what it was asked, or does not speak as it should; one line.
    GuestError(String),
}

/// A notice that was left.
struct Note {
    notice: Notice,
    /// Whether the machine stands still until its owner has decided.
    holds: bool,
}

/// What all threads of a machine share.
pub(crate) struct Core {
    pub(crate) gate: Gate,
    notices: Mutex<VecDeque<Note>>,
    noticed: Notify,
    kickers: OnceLock<Vec<Arc<dyn Kick>>>,
}

impl Core {
    pub(crate) fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            gate: Gate::closed(),
            notices: Mutex::default(),
            noticed: Notify::new()?,
            kickers: OnceLock::new(),
        }))
    }

    /// Says how the vCPUs are stopped. Once, before they run.
    pub(crate) fn set_kickers(&self, kickers: Vec<Arc<dyn Kick>>) {
        // A second call has nothing to add: the vCPUs are the same.
        let _ = self.kickers.set(kickers);
    }

    /// Makes every vCPU come out of the engine.
    pub(crate) fn kick_all(&self) {
        for kicker in self.kickers.get().into_iter().flatten() {
            kicker.kick();
        }
    }

    /// Leaves a note.
    pub(crate) fn notice(&self, notice: Notice) {
        self.notices().push_back(Note { notice, holds: false });
        self.noticed.set();
    }

    /// Leaves a note on which the machine waits: no vCPU runs on before the owner has decided.
    pub(crate) fn notice_and_hold(&self, notice: Notice) {
        let mut notices = self.notices();
        self.gate.hold();
        notices.push_back(Note { notice, holds: true });
        drop(notices);
        self.kick_all();
        self.noticed.set();
    }

    /// Goes on after a note on which the machine waited, unless it waits on another one.
    pub(crate) fn release(&self) {
        let notices = self.notices();
        if !notices.iter().any(|note| note.holds) {
            self.gate.release();
        }
    }

    /// Forgets what a guest has left that is no more. What became of the machine stays.
    pub(crate) fn forget_guest(&self) {
        self.notices().retain(|note| matches!(note.notice, Notice::Failed(_) | Notice::Warning(_)));
        self.release();
    }

    fn notices(&self) -> MutexGuard<'_, VecDeque<Note>> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The oldest note.
    pub(crate) fn take_notice(&self) -> Option<Notice> {
        self.noticed.clear();
        let mut notices = self.notices();
        let first = notices.pop_front();
        if !notices.is_empty() {
            self.noticed.set();
        }
        first.map(|note| note.notice)
    }

    /// Readable while there are notes.
    pub(crate) fn noticed(&self) -> BorrowedFd<'_> {
        self.noticed.as_fd()
    }
}

impl SystemControl for Core {
    fn request(&self, request: SystemRequest) {
        self.notice_and_hold(match request {
            SystemRequest::Reset => Notice::Reset,
            SystemRequest::PowerOff => Notice::PowerOff,
            SystemRequest::CpuEjected => Notice::CpuEjected,
            SystemRequest::Exit(status) => Notice::Exit(status),
            SystemRequest::Panicked => Notice::Panicked,
            SystemRequest::WatchdogExpired => Notice::WatchdogExpired,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_waited_on_holds_until_the_last_of_it() {
        let core = Core::new().unwrap();
        core.notice_and_hold(Notice::CpuEjected);
        core.notice(Notice::Warning("less".into()));
        core.notice_and_hold(Notice::PowerOff);
        assert_eq!(core.take_notice(), Some(Notice::CpuEjected));
        core.release();
        assert!(core.gate.is_held(), "the machine is to be switched off");
        core.forget_guest();
        assert!(!core.gate.is_held());
        assert_eq!(core.take_notice(), Some(Notice::Warning("less".into())), "of the host, not of the guest");
        assert_eq!(core.take_notice(), None);

        core.notice_and_hold(Notice::Failed("no more".into()));
        core.notice_and_hold(Notice::Reset);
        core.forget_guest();
        assert!(core.gate.is_held());
        assert_eq!(core.take_notice(), Some(Notice::Failed("no more".into())));
        assert_eq!(core.take_notice(), None);
    }
}
