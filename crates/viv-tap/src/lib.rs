//! tap interfaces: Ethernet of the host whose other end is a program.
//!
//! [`open`] makes or takes an interface and gives one descriptor for each of its queues; it may be a bridge's port. It
//! goes with its last descriptor, unless somebody made it to stay. [`Tap`] is one queue at work: frames, each with the
//! header of virtio before it (Linux, `Documentation/networking/tuntap.rst`).
//!
//! What cannot be done without `unsafe`, the ioctls of the driver, is in `ioctl.rs`.

mod ioctl;
mod open;

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

pub use open::{OpenError, open};

/// Bytes of the header before each frame: virtio's with the number of buffers.
pub const HEADER: usize = 12;

/// What may be left undone to frames that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offloads {
    /// Checksums.
    pub checksum: bool,
    /// Cutting TCP over IPv4 into segments.
    pub tso4: bool,
    /// The same over IPv6.
    pub tso6: bool,
}

/// One queue of an interface.
#[derive(Debug)]
pub struct Tap(OwnedFd);

impl Tap {
    /// Takes a descriptor that [`open`] gave.
    ///
    /// # Errors
    /// When it is none of an interface's.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        ioctl::set_header_length(fd.as_fd(), HEADER)?;
        Ok(Self(fd))
    }

    /// Says what may be left undone to frames that are read from now on.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        ioctl::set_offloads(self.0.as_fd(), offloads)
    }

    /// Lets an interface with several queues use this one, or not.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn set_attached(&self, attached: bool) -> io::Result<()> {
        ioctl::set_attached(self.0.as_fd(), attached)
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// What the kernel answers; `WouldBlock` if it has no room now.
    pub fn send(&self, header: &[u8; HEADER], frame: &[u8]) -> io::Result<()> {
        rustix::io::writev(&self.0, &[IoSlice::new(header), IoSlice::new(frame)])?;
        Ok(())
    }

    /// Receives a frame. Returns its length.
    ///
    /// # Errors
    /// What the kernel answers; `WouldBlock` if there is none.
    pub fn receive(&self, header: &mut [u8; HEADER], frame: &mut [u8]) -> io::Result<usize> {
        let read = rustix::io::readv(&self.0, &mut [IoSliceMut::new(header), IoSliceMut::new(frame)])?;
        Ok(read.saturating_sub(HEADER))
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
