//! One named port of the virtio console device.
//!
//! The driver's ports (`drivers/char/virtio_console.c`) have manners of their own, and this type is where
//! they are dealt with: reading a port whose host end is closed gives end of file at once, also before the
//! host ever opened it, and writing to one blocks for ever. So descriptors are non-blocking here, and every
//! wait is a `poll` that sees the host end close.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

/// An open port.
#[derive(Debug)]
pub(crate) struct Port {
    file: File,
}

impl Port {
    /// Opens the port behind a device file. The driver lets one opener have it.
    pub(crate) fn open(device: &Path) -> io::Result<Self> {
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        Ok(Self { file: OpenOptions::new().read(true).write(true).custom_flags(flags).open(device)? })
    }

    /// A second handle on the same port, for another thread.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()? })
    }

    /// Whether the host has its end open.
    pub(crate) fn is_connected(&self) -> io::Result<bool> {
        Ok(!self
            .wait(PollFlags::empty(), Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?
            .contains(PollFlags::HUP))
    }

    /// Reads what there is, waiting for at least one byte; 0 when the host has closed its end and all it had
    /// sent is read.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match (&self.file).read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(PollFlags::IN, None)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    /// Writes all of it, waiting for the host to make room; [`io::ErrorKind::BrokenPipe`] when the host has
    /// closed its end.
    pub(crate) fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.wait(PollFlags::OUT, None)?.contains(PollFlags::HUP) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            match (&self.file).write(bytes) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn wait(&self, events: PollFlags, patience: Option<&Timespec>) -> io::Result<PollFlags> {
        let mut fds = [PollFd::new(&self.file, events)];
        loop {
            match poll(&mut fds, patience) {
                Ok(_) => return Ok(fds[0].revents()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
