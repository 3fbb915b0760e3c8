//! Changes to an image as a whole.

use std::path::Path;

use super::entry::Entry;
use super::header::{Header, MAX_L1, field};
use super::meta::decode;
use super::read::Source;
use super::write::Zeroing;
use super::{Qcow2Disk, read_header};
use crate::bytes::index;
use crate::file::DiskFile;
use crate::{Access, Disk, DiskError, Format, SECTOR};

/// Makes the disk in the image at `path` larger, or smaller if `shrink` allows that. What is new reads as zeroes.
///
/// # Errors
/// When the image cannot be written, has snapshots, or cannot have that size.
pub fn resize(path: &Path, size: u64, shrink: bool) -> Result<(), DiskError> {
    let mut disk = Qcow2Disk::open(path, Access::ReadWrite)?;
    let mut header = read_header(&*disk.file)?;
    let refuse = |reason: String| Err(DiskError::CannotCreate { path: path.to_owned(), reason });
    let Some(size) = size.checked_next_multiple_of(SECTOR).filter(|size| *size > 0) else {
        return refuse("a disk has at least one byte and less than 2^64".into());
    };
    if header.snapshots > 0 {
        return refuse("it has snapshots, which have their own sizes; remove them first".into());
    }
    let former = disk.size;
    if size < former {
        if !shrink {
            return refuse(format!(
                "{size} bytes are less than its {former}; give --shrink if what is behind may go"
            ));
        }
        header.size = size;
        write_sizes(&disk, &header)?;
        let first = disk.geometry.offset_of(disk.geometry.clusters_for(size));
        disk.zero(first, former.saturating_sub(first), Zeroing::Discard)?;
        return disk.flush();
    }
    let entries = disk.geometry.l1_entries(size);
    if entries.saturating_mul(8) > MAX_L1 {
        return refuse(format!(
            "{size} bytes are too many for clusters of {} bytes",
            disk.geometry.cluster_size()
        ));
    }
    if entries > header.l1_size.into() {
        let l1_offset = disk.meta_mut().move_l1(&*disk.file, entries)?;
        (header.l1_offset, header.l1_size) = (l1_offset, entries as u32);
        write_sizes(&disk, &header)?;
        disk.meta_mut().commit(&*disk.file)?;
    }
    // What a backing file has behind the former end must not show, nor the rest of the last cluster.
    let below = disk.backing.as_ref().map_or(0, |backing| backing.size());
    let end = disk.geometry.offset_of(disk.geometry.clusters_for(former)).max(below).min(size);
    disk.size = size;
    disk.zero(former, end.saturating_sub(former), Zeroing::Unmap)?;
    disk.flush()?;
    header.size = size;
    write_sizes(&disk, &header)
}

/// Writes what the header says of sizes, all in one sector.
fn write_sizes(disk: &Qcow2Disk, header: &Header) -> Result<(), DiskError> {
    let mut bytes = header.size.to_be_bytes().to_vec();
    bytes.extend(header.crypt_method.to_be_bytes());
    bytes.extend(header.l1_size.to_be_bytes());
    bytes.extend(header.l1_offset.to_be_bytes());
    disk.file.write_at(field::SIZE, &bytes)?;
    disk.file.sync()
}

impl Qcow2Disk {
    /// Takes everything out of the image, so that its backing file shows through.
    ///
    /// # Errors
    /// When the image cannot be written.
    pub fn make_empty(&self) -> Result<(), DiskError> {
        let geometry = self.geometry;
        let span = geometry.offset_of(geometry.l2_entries());
        let mut offset = 0_u64;
        while offset < self.size {
            let meta = &mut *self.meta_mut();
            meta.begin_change(&*self.file)?;
            meta.load(&*self.file, offset)?;
            if meta.find(&*self.file, offset)?.flatten().is_some() {
                let slot = meta.own_slot(&*self.file, offset)?;
                for nth in 0..geometry.l2_entries() {
                    let former = decode(geometry, meta.entries_from(slot), nth);
                    if former != Entry::default() {
                        meta.set(slot.plus(nth), Entry::default());
                        meta.end_references_of(former, None);
                    }
                }
            }
            offset = offset.saturating_add(span);
        }
        self.flush()
    }

    /// Whether some of a range shows the backing file.
    pub(crate) fn shows_backing(&self, mut offset: u64, end: u64) -> Result<bool, DiskError> {
        while offset < end {
            let (source, length) = self.locate(offset)?;
            if source == Source::Backing {
                return Ok(true);
            }
            offset = offset.saturating_add(length);
        }
        Ok(false)
    }
}

/// Makes the image at `path` name another backing file, or none. What it reads as may change by that.
///
/// # Errors
/// When the image cannot be written, or the name does not fit into it.
pub fn set_backing(path: &Path, backing: Option<(&Path, Format)>) -> Result<(), DiskError> {
    let file = DiskFile::open(path, true)?;
    let mut header = read_header(&file)?;
    header.refuse(true).map_err(|reason| super::bad(&file, reason))?;
    let used = header.encode().map_or(index(header.geometry.cluster_size()), |bytes| used(&bytes));
    header.set_backing(backing);
    let bytes =
        header.encode().map_err(|reason| DiskError::CannotCreate { path: path.to_owned(), reason })?;
    // Most headers are in one sector, which is written or not.
    let length = used.max(self::used(&bytes));
    file.write_at(0, bytes.get(..length).unwrap_or(&bytes))?;
    file.sync()
}

/// Bytes until only zeroes follow.
fn used(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last.saturating_add(1))
}
