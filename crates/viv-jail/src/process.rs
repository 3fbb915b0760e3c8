//! Two processes: one in the jail, one that waits for it and tells how it died.

use std::fmt;
use std::io::{self, PipeReader};
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::process::{Pid, Signal, WaitOptions, set_parent_process_death_signal, waitpid};
use rustix::thread::UnshareFlags;

use crate::filter::{self, ThreadKind};
use crate::last_words::{self, LastWords};
use crate::namespaces;
use crate::privileges;
use crate::stage::Missing;
use crate::system;

/// Which of the two processes this is.
#[derive(Debug)]
pub enum Forked {
    /// The one that waits.
    Supervisor(Supervisor),
    /// The one that goes on.
    Inmate(Inmate),
}

/// What waits for the process in the jail.
#[derive(Debug)]
pub struct Supervisor {
    inmate: Pid,
    words: PipeReader,
}

/// The process that goes to jail, still outside.
#[derive(Debug)]
pub struct Inmate {
    /// Whether it is in a user namespace of its own already.
    pub(crate) own_user_namespace: bool,
    pub(crate) missing: Missing,
}

/// How the process in the jail ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It ended by itself, with this status.
    Exited(u8),
    /// It died; one line that goes on from "the process died:".
    Died(String),
}

/// Closes all descriptors but the standard ones and `kept`: what the starter let through is nobody's here.
///
/// To be called before this process has opened anything else that it means to keep.
pub fn close_others(kept: &[BorrowedFd<'_>]) {
    let mut kept: Vec<_> = kept.iter().map(AsRawFd::as_raw_fd).collect();
    system::close_all_but(&mut kept);
}

/// Splits the process. The child is alone in a process-id namespace where the host permits that, and dies with its parent.
///
/// # Errors
/// When there is more than one thread, or the host gives no process.
pub fn fork() -> io::Result<Forked> {
    let (words, out) = io::pipe()?;
    let mut missing = Missing::default();
    let own_user_namespace = own_process_ids(&mut missing);
    match system::fork()? {
        Some(inmate) => Ok(Forked::Supervisor(Supervisor { inmate, words })),
        None => {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            last_words::prepare(out)?;
            Ok(Forked::Inmate(Inmate { own_user_namespace, missing }))
        }
    }
}

/// Gives the next child process ids of its own; says whether that took a user namespace.
fn own_process_ids(missing: &mut Missing) -> bool {
    if system::unshare(UnshareFlags::NEWPID).is_ok() {
        return false;
    }
    let entered = namespaces::own_users(UnshareFlags::NEWPID);
    missing.note("a process-id namespace", entered).is_some()
}

impl Supervisor {
    /// Waits for the process in the jail to end. The caller has no rights any more but to say how.
    ///
    /// # Errors
    /// When the host does not say.
    pub fn wait(self) -> io::Result<Fate> {
        // What remains is to wait; whoever gets hold of this process finds nothing in it but the pipe and what the caller
        // speaks to.
        let mut missing = Missing::default();
        privileges::drop_all(&mut missing);
        let filters = filter::Filters::compile(false);
        missing.note("filters", filters.and_then(|filters| filters.install(ThreadKind::Supervisor)));
        let status = loop {
            match waitpid(Some(self.inmate), WaitOptions::empty()) {
                Ok(Some((_, status))) => break status,
                Ok(None) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        };
        if let Some(words) = last_words::read(self.words) {
            return Ok(Fate::Died(words.to_string()));
        }
        Ok(match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Fate::Exited(u8::try_from(code).unwrap_or(u8::MAX)),
            (None, signal) => Fate::Died(Killed(signal.unwrap_or_default()).to_string()),
        })
    }
}

/// A signal that ended a process.
struct Killed(i32);

impl fmt::Display for Killed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            libc::SIGKILL => f.write_str(
                "it was killed (SIGKILL), by somebody or because the host ran out of memory; dmesg tells",
            ),
            libc::SIGSEGV => f.write_str("it used memory that is not there (SIGSEGV)"),
            libc::SIGBUS => f.write_str(
                "memory of a file was gone that it used, or the disk had no room for what it wrote there (SIGBUS)",
            ),
            libc::SIGILL => f.write_str("it executed an instruction that the processor lacks (SIGILL)"),
            signal => LastWords::Signal(signal).fmt(f),
        }
    }
}
