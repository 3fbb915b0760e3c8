//! Eventfds that both `vhost` and `epoll` take.
#![allow(unsafe_code, reason = "the eventfds that vhost takes can be waited for by their numbers alone")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// An eventfd, which is never read here: the other side shares its flags, and might let a read of nothing block.
#[derive(Debug)]
pub(crate) struct Event(EventFd);

impl Event {
    pub(crate) fn new() -> io::Result<Self> {
        EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map(Self)
    }

    /// Makes it readable.
    pub(crate) fn set(&self) {
        // It fails only when the counter is full, and then it is readable as it should be.
        let _ = self.0.write(1);
    }

    /// As `vhost` takes it.
    pub(crate) fn inner(&self) -> &EventFd {
        &self.0
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: The descriptor is open as long as its owner is, which is borrowed as long as the result.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}
