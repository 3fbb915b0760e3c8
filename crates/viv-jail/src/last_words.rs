//! What a process that dies says of it: which thread made which system call, or that it gave up by itself.
//!
//! The words go to a pipe whose other end is the supervisor's. They are written by signal handlers, so everything here is
//! async-signal-safe: no allocation, no lock, and no system call but those that every filter allows.
#![allow(unsafe_code, reason = "signal handlers")]

use std::fmt;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::mem;
use std::os::fd::IntoRawFd;
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

use libc::{c_int, c_void, siginfo_t};

/// `si_code` of a SIGSYS that a filter of system calls sent (asm-generic/siginfo.h).
const SYS_SECCOMP: c_int = 1;
/// Where `siginfo_t` has the number of the system call: behind three integers, padding and an address.
const SI_SYSCALL: usize = 24;
/// The length of a thread's name with its final zero (TASK_COMM_LEN).
const NAME: usize = 16;
/// Signal, `si_code`, system call, the thread's name.
const LENGTH: usize = 12 + NAME;

/// The writing end of the pipe, or -1.
static OUT: AtomicI32 = AtomicI32::new(-1);

/// What a process said last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LastWords {
    /// A thread made a system call that its filter does not allow.
    Forbidden { thread: String, call: i32 },
    /// A thread gave the process up.
    Aborted { thread: String },
    /// Somebody sent this signal.
    Signal(c_int),
}

/// Makes this process say to `out` why it dies, where it can.
pub(crate) fn prepare(out: PipeWriter) -> io::Result<()> {
    // The pipe lives as long as the process.
    OUT.store(out.into_raw_fd(), Ordering::Relaxed);
    for signal in [libc::SIGSYS, libc::SIGABRT] {
        // SAFETY: a zeroed sigaction is valid, and the handler is async-signal-safe.
        let result = unsafe {
            let mut action: libc::sigaction = mem::zeroed();
            action.sa_sigaction = handle as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigaction(signal, &raw const action, ptr::null_mut())
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

extern "C" fn handle(signal: c_int, info: *mut siginfo_t, _context: *mut c_void) {
    let mut words = [0; LENGTH];
    // SAFETY: the kernel passes a siginfo, which is longer than what is read of it; the name has room for TASK_COMM_LEN
    // bytes; the words are initialised.
    unsafe {
        let code = (*info).si_code;
        let call = info.byte_add(SI_SYSCALL).cast::<c_int>().read();
        for (place, value) in words.chunks_exact_mut(4).zip([signal, code, call]) {
            place.copy_from_slice(&value.to_ne_bytes());
        }
        libc::prctl(libc::PR_GET_NAME, words.as_mut_ptr().add(LENGTH - NAME));
        // A pipe that takes nothing leaves the status.
        libc::write(OUT.load(Ordering::Relaxed), words.as_ptr().cast(), LENGTH);
        libc::_exit(128 + signal);
    }
}

/// What was said, if anything was. To be called when the process is over.
pub(crate) fn read(mut from: PipeReader) -> Option<LastWords> {
    let mut words = [0; LENGTH];
    from.read_exact(&mut words).ok()?;
    let mut numbers =
        words.chunks_exact(4).map(|bytes| i32::from_ne_bytes(bytes.try_into().unwrap_or_default()));
    let (signal, code, call) = (numbers.next()?, numbers.next()?, numbers.next()?);
    let name = words.get(LENGTH - NAME..)?.split(|byte| *byte == 0).next().unwrap_or_default();
    let thread = String::from_utf8_lossy(name).into_owned();
    Some(match signal {
        libc::SIGSYS if code == SYS_SECCOMP => LastWords::Forbidden { thread, call },
        libc::SIGABRT => LastWords::Aborted { thread },
        signal => LastWords::Signal(signal),
    })
}

impl fmt::Display for LastWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forbidden { thread, call } => {
                let known = usize::try_from(*call).ok().and_then(syscalls::Sysno::new);
                let name = known.map_or_else(|| call.to_string(), |known| known.name().to_owned());
                write!(f, "its thread {thread} made the system call {name}, which the jail forbids")
            }
            Self::Aborted { thread } => write!(f, "its thread {thread} gave up (SIGABRT)"),
            Self::Signal(signal) => write!(f, "it was sent signal {signal}"),
        }
    }
}
