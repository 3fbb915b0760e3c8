//! Byte streams of the host, each with a thread of its own.
//!
//! A stream's descriptor may be a pipe, a socket, a terminal or a file, and is often shared with other
//! processes: its `O_NONBLOCK` flag is not ours to set, and a terminal that was stopped blocks a writer
//! whatever `poll` said. So each direction has a thread that may block, and a buffer between it and the
//! devices, which never do. A full buffer holds the faster side back; no byte is lost.

mod host;
mod inlet;
mod outlet;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags};

pub(crate) use host::{HostStream, Read};
use inlet::{Inlet, Received};
use outlet::Outlet;

use crate::machine::notify::Notify;

/// How much is held between a thread and a device, in bytes.
const CAPACITY: usize = 64 << 10;

/// Waits until `fd` is ready for `what`. False when `stop` was set meanwhile.
fn wait_ready(fd: BorrowedFd<'_>, what: PollFlags, stop: &Notify) -> io::Result<bool> {
    let stop = stop.as_fd();
    let mut fds = [PollFd::from_borrowed_fd(fd, what), PollFd::from_borrowed_fd(stop, PollFlags::IN)];
    loop {
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, None))?;
        let [fd, stop] = &fds;
        if !stop.revents().is_empty() {
            return Ok(false);
        }
        if !fd.revents().is_empty() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests;
