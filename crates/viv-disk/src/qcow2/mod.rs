//! The qcow2 format, versions 2 and 3, as QEMU's `docs/interop/qcow2.txt` has it.
//!
//! A disk is cut into clusters. An L1 table names L2 tables, whose entries say where in the file each cluster is: nowhere,
//! so that the backing file shows through; nowhere, and it reads as zeroes; in a cluster of its own; or compressed. With
//! extended entries, the 32 subclusters of a cluster each have such a state. Refcounts say how often each cluster of the
//! file is referred to: more than once by snapshots inside the image, and what they share is copied before it is changed.
//!
//! | module | subject |
//! |---|---|
//! | `header`, `geometry`, `entry` | what is in the file: the header, sizes, L2 entries |
//! | `meta`, `refcounts`, `cache` | the tables of an open image, and the order in which they are written |
//! | `read`, `write`, `compress` | what becomes of a guest's requests |
//! | `create`, `check`, `change` | images as a whole |
//!
//! **Locks.** Reads, and writes to what is allocated already, share a lock. What changes tables holds it alone.
//!
//! **A cut.** [`meta`] says how the tables are written, so that whenever the power fails the image is whole: each flushed
//! write is there, and at the worst clusters have leaked, which `viv disk check --repair` gives back. Lazy refcounts, by
//! which others save writes and have to repair the image afterwards, are never used; that an image allows them stays.
//!
//! **Not supported**: encryption, data in another file, and bitmaps, which are dropped when an image is opened for writing,
//! as the format says. Snapshots inside an image are kept, and cannot be made.

mod change;
mod check;
mod compress;
mod create;
mod entry;
mod geometry;
mod header;
mod info;
mod meta;
mod read;
mod refcounts;
mod snapshots;
#[cfg(test)]
pub(crate) use tests::fuzz;
#[cfg(test)]
mod tests;
mod write;

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::bytes::index;
use crate::file::DiskFile;
use crate::format::open_backing;
use crate::storage::Storage;
use crate::{Access, Disk, DiskError, SECTOR, check_range, length_of};

pub use change::{resize, set_backing};
pub use check::{Check, Repair, check};
pub(crate) use create::write_new;
pub use create::{CreateOptions, create};
pub use header::Compression;
pub(crate) use header::MAGIC;
pub use info::{Info, Snapshot, info};

use geometry::Geometry;
use header::Header;
use meta::Meta;
use read::Source;

/// A disk in a qcow2 image.
#[derive(Debug)]
pub struct Qcow2Disk {
    file: Box<dyn Storage>,
    geometry: Geometry,
    compression: Compression,
    size: u64,
    read_only: bool,
    /// Whether flushes reach the file: not when it is thrown away anyway.
    kept: bool,
    backing: Option<Box<dyn Disk>>,
    /// Whether the image has a backing file, which shows where nothing is allocated; zeroes if it is not open.
    backed: bool,
    /// Read to find data, which is read or changed in its place before it is let go of; written to change tables.
    meta: RwLock<Meta>,
    /// The compressed cluster that was read last, by its entry's word.
    unpacked: Mutex<Option<(u64, Arc<Vec<u8>>)>>,
}

impl std::fmt::Debug for dyn Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a disk of {} bytes", self.size())
    }
}

impl Qcow2Disk {
    /// Opens and locks the image at `path`, and what is below it.
    ///
    /// # Errors
    /// When a file cannot be opened, is in use in a way that excludes `access`, or is no image that can be used so.
    pub fn open(path: &Path, access: Access) -> Result<Self, DiskError> {
        Self::open_in_chain(path, access, 1)
    }

    /// The first range at or behind `offset` in which the image does not show its backing file; none if there is none.
    ///
    /// # Errors
    /// When the image cannot be read.
    pub fn own_from(&self, offset: u64) -> Result<Option<Range<u64>>, DiskError> {
        let mut offset = offset;
        while offset < self.size {
            let (source, length) = self.locate(offset)?;
            let end = offset.saturating_add(length);
            if source != Source::Backing {
                return Ok(Some(offset..end));
            }
            offset = end;
        }
        Ok(None)
    }

    /// [`Qcow2Disk::open`] for the `depth`th file of a chain.
    pub(crate) fn open_in_chain(path: &Path, access: Access, depth: usize) -> Result<Self, DiskError> {
        let file = DiskFile::open(path, access == Access::ReadWrite)?;
        let header = read_header(&file)?;
        let backing = match &header.backing {
            Some(name) => Some(open_backing(path, name, header.backing_format(), depth)?),
            None => None,
        };
        Self::over(Box::new(file), access, backing)
    }

    /// Opens and locks the image at `path` over `backing`, whatever it names itself.
    ///
    /// # Errors
    /// As for [`Qcow2Disk::open`].
    pub fn open_over(path: &Path, access: Access, backing: Option<Box<dyn Disk>>) -> Result<Self, DiskError> {
        Self::over(Box::new(DiskFile::open(path, access == Access::ReadWrite)?), access, backing)
    }

    /// Makes an image without a name in `directory`, for what is written over `backing` until the disk is closed.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn throw_away(backing: Box<dyn Disk>, directory: &Path) -> Result<Self, DiskError> {
        let file = tempfile::tempfile_in(directory).map_err(DiskError::io("make a throw-away", directory))?;
        let file: Box<dyn Storage> = Box::new(DiskFile::from_file(file, directory, true)?.fleeting());
        write_new(&*file, backing.size(), &CreateOptions::default())?;
        let mut disk = Self::over(file, Access::ReadWrite, Some(backing))?;
        disk.kept = false;
        Ok(disk)
    }

    /// An image in any file.
    pub(crate) fn over(
        file: Box<dyn Storage>,
        access: Access,
        backing: Option<Box<dyn Disk>>,
    ) -> Result<Self, DiskError> {
        let write = access == Access::ReadWrite;
        let header = read_header(&*file)?;
        header.refuse(write).map_err(|reason| bad(&*file, reason))?;
        if write && header.autoclear != 0 {
            // Nobody keeps what these stand for up to date.
            file.write_at(header::field::AUTOCLEAR, &[0; 8])?;
            file.sync()?;
        }
        Ok(Self {
            geometry: header.geometry,
            compression: header.compression().unwrap_or(Compression::Deflate),
            size: header.size & !SECTOR.wrapping_sub(1),
            read_only: !write,
            kept: true,
            backed: backing.is_some() || header.backing.is_some(),
            backing,
            meta: RwLock::new(Meta::open(&*file, &header)?),
            unpacked: Mutex::new(None),
            file,
        })
    }

    fn meta(&self) -> RwLockReadGuard<'_, Meta> {
        self.meta.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn meta_mut(&self) -> RwLockWriteGuard<'_, Meta> {
        self.meta.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn bad(&self, reason: String) -> DiskError {
        bad(&*self.file, reason)
    }

    fn check_change(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        if self.read_only {
            return Err(DiskError::ReadOnly { path: self.file.path().to_owned() });
        }
        check_range(offset, length, self.size)
    }

    /// The part of a range that lies in the cluster where it begins.
    fn piece(&self, offset: u64, length: u64) -> u64 {
        let left = self.geometry.cluster_size().saturating_sub(self.geometry.within(offset));
        left.min(length)
    }

    /// Whether a cluster has all of the disk that it could have.
    fn is_whole(&self, offset: u64, length: u64) -> bool {
        let end = offset.saturating_add(length);
        self.geometry.within(offset) == 0 && (length == self.geometry.cluster_size() || end == self.size)
    }
}

impl Disk for Qcow2Disk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn file_length(&self) -> u64 {
        self.file.length().unwrap_or(0)
    }

    fn read_at(&self, offset: u64, data: &mut [u8]) -> Result<(), DiskError> {
        check_range(offset, length_of(data), self.size)?;
        self.read(offset, data)
    }

    fn data_from(&self, mut offset: u64) -> Result<Option<Range<u64>>, DiskError> {
        while offset < self.size {
            let (source, length) = self.locate(offset)?;
            let end = offset.saturating_add(length);
            match (source, &self.backing) {
                (Source::Backing, Some(backing)) if offset < backing.size() => {
                    // What lies below knows where its data is.
                    if let Some(data) = backing.data_from(offset)?
                        && data.start < end
                    {
                        return Ok(Some(data.start..data.end.min(end)));
                    }
                }
                (Source::Zeroes | Source::Backing, _) => {}
                (Source::File(_) | Source::Packed(_), _) => return Ok(Some(offset..end)),
            }
            offset = end;
        }
        Ok(None)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.check_change(offset, length_of(data))?;
        self.write(offset, data)
    }

    fn flush(&self) -> Result<(), DiskError> {
        if self.read_only || !self.kept {
            return Ok(());
        }
        // Most of the wait, while others go on.
        if let Err(error) = self.file.sync() {
            self.meta_mut().give_up();
            return Err(error);
        }
        {
            let meta = self.meta();
            if meta.is_clean() {
                return Ok(());
            }
        }
        self.meta_mut().commit(&*self.file)
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.check_change(offset, length)?;
        self.zero(offset, length, write::Zeroing::Discard)
    }

    fn write_zeroes(&self, offset: u64, length: u64, may_unmap: bool) -> Result<(), DiskError> {
        self.check_change(offset, length)?;
        self.zero(offset, length, if may_unmap { write::Zeroing::Unmap } else { write::Zeroing::Keep })
    }
}

impl Drop for Qcow2Disk {
    fn drop(&mut self) {
        let meta = self.meta.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !self.read_only && self.kept && !meta.is_clean() {
            // What was not flushed was not promised.
            let _ = meta.commit(&*self.file);
        }
    }
}

/// Reads the header of an image.
fn read_header(file: &dyn Storage) -> Result<Header, DiskError> {
    let mut start = vec![0; 24];
    let have = file.read_some(0, &mut start)?;
    start.truncate(have);
    let length = Header::first_cluster(&start).map_err(|reason| bad(file, reason))?;
    let mut cluster = vec![0; index(length)];
    let have = file.read_some(0, &mut cluster)?;
    cluster.truncate(have);
    Header::decode(&cluster).map_err(|reason| bad(file, reason))
}

/// What the image at `path` says of its base when it was made ([`crate::open_kept`]).
pub(crate) fn base_stamp(path: &Path) -> Result<Option<Vec<u8>>, DiskError> {
    let header = read_header(&DiskFile::open_unlocked(path)?)?;
    Ok(header.extension(header::BASE_STAMP).map(<[u8]>::to_vec))
}

/// What is wrong with an image.
fn bad(file: &dyn Storage, reason: String) -> DiskError {
    DiskError::BadImage { path: file.path().to_owned(), reason }
}
