//! Requests to a disk that run beside each other.
//!
//! A device model starts [`Request`]s, whose data goes to or comes from guest memory, hands them to the host in one go
//! ([`Aio::submit`]), and gets told when each has ended, in any order. Two ways there are:
//!
//! - io_uring, for raw disks: the kernel moves data between the file and guest memory itself.
//! - A few threads that call [`Disk`], for all other disks and all other kernels ([`pool`]).
//!
//! No order is promised among requests that run at the same time. A [`Operation::Flush`] makes durable what was
//! written by requests that had ended before it was started.
//!
//! Who starts requests keeps their number in bounds: there is one entry of bounded size for each.

mod memory;
mod pool;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

pub(crate) use memory::Piece as GuestPiece;
pub use memory::Scatter;

use crate::direct::Aligned;
use crate::uring::Uring;
use crate::{Disk, DiskError};
use pool::{BUFFER, Pool, perform};

/// From how many requests on that run at a time no more should be started, for each disk.
pub const DEPTH: u16 = 256;

/// What is asked of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Fill the data from the disk.
    Read,
    /// Put the data onto the disk.
    Write {
        /// It outlives a crash of the host once the request has ended.
        durable: bool,
    },
    /// [`Disk::flush`].
    Flush,
    /// [`Disk::discard`].
    Discard,
    /// [`Disk::write_zeroes`].
    WriteZeroes {
        /// The space may be given back to the host.
        may_unmap: bool,
        /// They outlive a crash of the host once the request has ended.
        durable: bool,
    },
}

/// One request.
#[derive(Debug)]
pub struct Request {
    /// Its starter's name for it.
    pub tag: u64,
    /// What it asks.
    pub operation: Operation,
    /// Where on the disk, in bytes.
    pub offset: u64,
    /// How many bytes. Of a read or a write it is what [`Request::data`] has room for.
    pub length: u64,
    /// Where its data is; nothing but for reads and writes.
    pub data: Scatter,
}

impl Request {
    /// Carries it out by calls that block.
    ///
    /// # Errors
    /// Those of the disk, and when its data is not in guest memory.
    pub fn perform(&self, disk: &dyn Disk) -> Result<(), DiskError> {
        perform(disk, self, &mut Aligned::new(BUFFER))
    }
}

/// The end of a request.
#[derive(Debug)]
pub struct Completion {
    /// The request's.
    pub tag: u64,
    /// What came of it. After a failure any part of the data may have been moved.
    pub result: Result<(), DiskError>,
}

/// The way to a disk. What is in flight when it is dropped comes to its end first.
pub trait Aio: Send {
    /// Takes a request. Nothing may happen before [`Aio::submit`].
    fn start(&mut self, request: Request);

    /// Hands what was started to the host.
    ///
    /// # Errors
    /// When the host takes no more requests at all; those in flight may never be told of.
    fn submit(&mut self) -> io::Result<()>;

    /// Adds to `ended` the requests that have come to their end and were not told of.
    fn take_ended(&mut self, ended: &mut Vec<Completion>);

    /// Waits until there is one, or nothing is in flight.
    ///
    /// # Errors
    /// As [`Aio::submit`].
    fn wait(&mut self) -> io::Result<()>;

    /// Readable while there is one.
    fn ended_fd(&self) -> BorrowedFd<'_>;
}

/// How requests are to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// By io_uring if disk and host allow, otherwise by threads.
    #[default]
    Auto,
    /// By io_uring.
    IoUring,
    /// By threads.
    Threads,
}

/// Opens a way to `disk`, and logs which.
///
/// # Errors
/// When io_uring is asked for and cannot be had, or the host gives no thread or descriptor.
pub fn open(disk: Arc<dyn Disk>, choice: Choice) -> Result<Box<dyn Aio>, DiskError> {
    let threads = |disk| -> Result<Box<dyn Aio>, DiskError> {
        let pool = Pool::start(disk).map_err(|source| DiskError::NoThreads { source })?;
        Ok(Box::new(pool))
    };
    let Some(raw) = disk.as_raw() else {
        return match choice {
            Choice::Auto | Choice::Threads => threads(disk),
            Choice::IoUring => Err(DiskError::NotRaw { option: "aio=io_uring", instead: "aio=threads" }),
        };
    };
    let path = raw.file().path().to_owned();
    if choice == Choice::Threads {
        return threads(disk);
    }
    match Uring::new(disk.clone()) {
        Ok(ring) => {
            tracing::info!(disk = %path.display(), "requests run by io_uring");
            Ok(Box::new(ring))
        }
        Err(error) if choice == Choice::IoUring => {
            Err(DiskError::NoIoUring { path, reason: error.to_string() })
        }
        Err(error) => {
            tracing::info!(disk = %path.display(), %error, "requests run by threads: there is no io_uring");
            threads(disk)
        }
    }
}
