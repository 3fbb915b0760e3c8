//! Stopping a vCPU from other threads.
//!
//! Two things make KVM_RUN return: a signal to the thread that is in it, and a flag in the page shared with KVM that it
//! looks at when it begins. A signal alone would be lost between the thread's last look and the call.
#![allow(unsafe_code, reason = "signals to threads")]

use std::mem;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use libc::{c_int, pthread_t};
use viv_engine::Kick;

use crate::run_page::RunPage;

/// What other threads hold of a vCPU.
pub(crate) struct Kicker {
    page: RunPage,
    kicked: AtomicBool,
    /// The thread in [`Vcpu::run`](viv_engine::Vcpu::run).
    runner: Mutex<Option<pthread_t>>,
}

/// A thread's being in [`Vcpu::run`](viv_engine::Vcpu::run).
pub(crate) struct Running<'a>(&'a Kicker);

impl Kicker {
    pub(crate) fn new(page: RunPage) -> Self {
        static INSTALL: Once = Once::new();
        INSTALL.call_once(install_handler);
        Self { page, kicked: AtomicBool::new(false), runner: Mutex::new(None) }
    }

    /// The page that the vCPU shares with KVM.
    pub(crate) fn page(&self) -> &RunPage {
        &self.page
    }

    /// Says that the calling thread runs the vCPU, until what it returns is dropped.
    pub(crate) fn enter(&self) -> Running<'_> {
        unblock_signal();
        // SAFETY: the call has no preconditions.
        *self.lock() = Some(unsafe { libc::pthread_self() });
        Running(self)
    }

    /// Makes the vCPU's thread look at what it has to do before it runs the guest on. Its own thread does so anyway.
    pub(crate) fn interrupt(&self) {
        let runner = self.lock();
        // SAFETY: the call has no preconditions.
        if *runner == Some(unsafe { libc::pthread_self() }) {
            return;
        }
        self.page.set_immediate_exit(true);
        if let Some(thread) = *runner {
            // SAFETY: a thread takes itself out before it ends, for which it needs the lock.
            unsafe { libc::pthread_kill(thread, signal()) };
        }
    }

    /// Lets KVM_RUN run the guest again. What is to be looked at must be looked at after this.
    pub(crate) fn clear(&self) {
        self.page.set_immediate_exit(false);
    }

    /// Whether someone wants `run` to return; asked for once per kick.
    pub(crate) fn take(&self) -> bool {
        self.kicked.swap(false, Ordering::SeqCst)
    }

    fn lock(&self) -> MutexGuard<'_, Option<pthread_t>> {
        self.runner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kick for Kicker {
    fn kick(&self) {
        self.kicked.store(true, Ordering::SeqCst);
        // Also from the vCPU's own thread, in the middle of an access: KVM completes it, and returns.
        self.page.set_immediate_exit(true);
        self.interrupt();
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}

/// The signal that ends KVM_RUN.
fn signal() -> c_int {
    libc::SIGRTMIN()
}

extern "C" fn ignore(_: c_int) {}

/// Gives the signal a handler that does nothing: to have been handled is enough to end KVM_RUN.
fn install_handler() {
    // SAFETY: all zeroes are a valid action: no flags, so that system calls are not restarted, and an empty mask.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = ignore as extern "C" fn(c_int) as usize;
    // SAFETY: the handler is async-signal-safe, as it does nothing.
    unsafe { libc::sigaction(signal(), &raw const action, null_mut()) };
}

/// Lets the calling thread take the signal, whatever it has inherited.
fn unblock_signal() {
    // SAFETY: the set is initialised by `sigemptyset` before it is used.
    unsafe {
        let mut set = mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal());
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, null_mut());
    }
}
