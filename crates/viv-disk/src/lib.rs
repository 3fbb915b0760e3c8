//! Where the blocks of a virtual disk come from.
//!
//! - [`Disk`]: what a block device model asks of a back end.
//! - [`RawDisk`]: a file or block device whose bytes are the disk's.
//! - [`qcow2`]: images that grow with what is written, over a backing file or not.
//! - [`vmdk`]: images in one file or several, as VMware has them.
//! - [`Format`] and [`open`]: which of them a file is, which is stated and not guessed.
//!
//! - [`aio`]: requests to a disk that run beside each other, between its file and guest memory.
//!
//! Calls of [`Disk`] block, and may come from several threads at a time. Of calls that overlap in time and place, any
//! may come first, and reads may see a part of a write. Offsets and lengths are bytes. Sizes are whole sectors of
//! [`SECTOR`] bytes; what a request may start at and span is the caller's business, as long as it lies within the disk.
//!
//! A file in use is locked (`flock`), shared by readers, held alone by a writer, so that no file has two
//! writers and no backing file is written behind its back. The kernel lets go of the lock with the process.
//!
//! The crate knows nothing of devices and machines, and of guests no more than that they have memory. Offsets come from guests and headers from files
//! of unknown origin; whatever is in them, calls end in an error that says what was being done to which file,
//! and never in a panic or an access outside the disk.
#![deny(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

pub mod aio;
mod bytes;
mod cache;
mod chain;
mod direct;
mod error;
mod file;
mod format;
mod kept;
mod new_disk;
mod new_file;
pub mod qcow2;
mod raw;
mod storage;
#[cfg(test)]
mod testing;
#[allow(unsafe_code, reason = "the kernel is told addresses of guest memory")]
mod uring;
pub mod vmdk;

use std::ops::Range;

pub use chain::{commit, rebase};
pub use error::DiskError;
pub use format::{Format, backing_path, open};
pub use kept::open_kept;
pub use new_disk::{NewDisk, NewFormat};
pub use raw::{Access, Caching, RawDisk, open_locked, resize_raw};

/// The unit of a disk's size, in bytes.
pub const SECTOR: u64 = 512;

/// A virtual disk's back end.
///
/// Every call that names a range fails with [`DiskError::OutOfRange`] when it reaches past [`Disk::size`],
/// before anything is read or written; every change fails with [`DiskError::ReadOnly`] on a disk that is
/// [`Disk::read_only`].
pub trait Disk: Send + Sync {
    /// The size in bytes, a multiple of [`SECTOR`] and not 0. It never changes.
    fn size(&self) -> u64;

    /// Whether it can only be read.
    fn read_only(&self) -> bool;

    /// How long the file on the host is that the disk is in; of a chain, the one in front. In bytes.
    fn file_length(&self) -> u64 {
        self.size()
    }

    /// The least that can be written without reading what is around it, in bytes: a power of two, at least [`SECTOR`].
    fn physical_block(&self) -> u32 {
        SECTOR as u32
    }

    /// The file whose bytes are the disk's, if that is what it is.
    fn as_raw(&self) -> Option<&RawDisk> {
        None
    }

    /// Fills `data` with what lies at `offset`.
    fn read_at(&self, offset: u64, data: &mut [u8]) -> Result<(), DiskError>;

    /// The first range at or behind `offset` that may hold something else than zeroes; none if there is none.
    fn data_from(&self, offset: u64) -> Result<Option<Range<u64>>, DiskError> {
        Ok((offset < self.size()).then(|| offset..self.size()))
    }

    /// Puts `data` at `offset`. Until a [`Disk::flush`] has succeeded, a crash may undo any part of it.
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), DiskError>;

    /// Makes what was written before outlive a crash of the host. A disk that is to be thrown away promises
    /// nothing here.
    fn flush(&self) -> Result<(), DiskError>;

    /// Says that the contents of a range are of no more use. It reads as before or as zeroes from then on;
    /// where the host cannot give the space back, nothing happens.
    fn discard(&self, offset: u64, length: u64) -> Result<(), DiskError>;

    /// Makes a range read as zeroes. `may_unmap` allows the space to be given back to the host.
    fn write_zeroes(&self, offset: u64, length: u64, may_unmap: bool) -> Result<(), DiskError>;
}

/// Whether `length` bytes at `offset` lie within `size`.
fn check_range(offset: u64, length: u64, size: u64) -> Result<(), DiskError> {
    match offset.checked_add(length) {
        Some(end) if end <= size => Ok(()),
        _ => Err(DiskError::OutOfRange { offset, length, size }),
    }
}

/// The length of a buffer as the type of offsets.
fn length_of(data: &[u8]) -> u64 {
    // A `usize` has at most 64 bits.
    data.len() as u64
}
