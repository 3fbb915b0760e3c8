//! The VMDK format, as VMware's "Virtual Disk Format 5.0" has it.
//!
//! A descriptor, which is text, says of which extents a disk consists. A flat extent is a file whose bytes are the disk's. A
//! sparse one is cut into grains, which a directory of tables finds in the file; in images that are made to be sent they are
//! compressed. The descriptor lies in the only extent, or in a file beside the extents.
//!
//! | module | subject |
//! |---|---|
//! | `descriptor`, `header` | what is in the files: text, headers, markers |
//! | `sparse`, `compress`, `extent` | what becomes of a guest's requests |
//! | `verify` | what must hold before an extent is written |
//! | `create`, `stream`, `info` | images as a whole |
//!
//! **Files.** The descriptor names the extents, and they are opened: in its own directory, by a name that leads nowhere else,
//! symbolic links included.
//!
//! **A cut.** As with qcow2, whenever the power fails each flushed write is there, and an image is whole; grains that no table
//! names yet are lost space.
//!
//! **Not supported**: images over a parent, what only hypervisors' own file systems have (COWD, SESparse), and writing to
//! compressed grains, or where a record of changes is kept.

mod compress;
mod create;
mod descriptor;
mod extent;
mod header;
mod info;
mod sparse;
mod stream;
#[cfg(test)]
pub(crate) use tests::fuzz;
#[cfg(test)]
mod tests;
mod verify;

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::bytes::{index, take};
use crate::file::DiskFile;
use crate::storage::Storage;
use crate::{Access, Disk, DiskError, SECTOR, check_range, length_of};

pub(crate) use create::write_new;
pub(crate) use descriptor::BEGINNING;
pub(crate) use header::MAGIC;
pub use info::{Extent, Info, info};
pub(crate) use stream::Stream;

use descriptor::{Descriptor, MAX_LENGTH};
use extent::Placed;
use header::Header;

/// Bytes of grain tables that are kept in memory.
const TABLES: u64 = 8 << 20;
/// Bytes before a compressed grain: its sector of the disk, and its length.
const MARKER_LENGTH: usize = 12;

/// How a VMDK image is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// One file that grows.
    #[default]
    Sparse,
    /// One file of compressed grains, to be sent; it is read alone from then on.
    Stream,
}

/// A disk in a VMDK image.
#[derive(Debug)]
pub struct VmdkDisk {
    file: Arc<dyn Storage>,
    /// In the order of the disk.
    extents: Vec<Placed>,
    size: u64,
    read_only: bool,
    /// The content ID that it is going to have, and where: with the first change to the contents.
    content: Mutex<Option<(u64, String)>>,
}

impl VmdkDisk {
    /// Opens and locks the image at `path`, and its extents.
    ///
    /// # Errors
    /// When a file cannot be opened, is in use in a way that excludes `access`, or is no image that can be used so.
    pub fn open(path: &Path, access: Access) -> Result<Self, DiskError> {
        let write = access == Access::ReadWrite;
        let beside = |name: &str| -> Result<Arc<dyn Storage>, DiskError> {
            Ok(Arc::new(DiskFile::open_beside(path, name, write)?))
        };
        Self::over(Arc::new(DiskFile::open(path, write)?), access, &beside)
    }

    /// The new image in a file that nobody else has, to be filled.
    pub(crate) fn in_one_file(file: DiskFile) -> Result<Self, DiskError> {
        let path = file.path().to_owned();
        let none = |_: &str| Err(DiskError::NotADisk { path: path.clone() });
        Self::over(Arc::new(file), Access::ReadWrite, &none)
    }

    /// An image in any file, whose extents are found by their names.
    fn over(file: Arc<dyn Storage>, access: Access, beside: &extent::Beside<'_>) -> Result<Self, DiskError> {
        let write = access == Access::ReadWrite;
        let image = Image::read(&*file)?;
        image.descriptor.refuse(write).map_err(|reason| bad(&*file, reason))?;
        let digits = image.descriptor.content_digits.as_ref().filter(|_| write);
        let content = digits.map(|digits| {
            let place = image.descriptor_at.saturating_add(digits.start as u64);
            (place, other_content_id(image.descriptor.content, digits.len()))
        });
        let extents = match image.header {
            Some(header) => vec![Placed::whole(Arc::clone(&file), header, write)?],
            None => extent::open(&*file, &image.descriptor, write, beside)?,
        };
        let size = extents.last().map_or(0, |last| last.range.end);
        Ok(Self { file, extents, size, read_only: !write, content: Mutex::new(content) })
    }

    /// Does something with each part of a range: with the extent, where the part begins in it, and which of `length` bytes
    /// it has.
    fn each(
        &self,
        offset: u64,
        length: u64,
        mut each: impl FnMut(&Placed, u64, Range<usize>) -> Result<(), DiskError>,
    ) -> Result<(), DiskError> {
        let end = offset.saturating_add(length);
        let first = self.extents.partition_point(|extent| extent.range.end <= offset);
        for extent in self.extents.iter().skip(first).take_while(|extent| extent.range.start < end) {
            let from = offset.max(extent.range.start);
            let to = end.min(extent.range.end);
            let part = index(from.saturating_sub(offset))..index(to.saturating_sub(offset));
            each(extent, from.saturating_sub(extent.range.start), part)?;
        }
        Ok(())
    }

    /// Checks a change, and gives the image another content ID before the first.
    fn begin_change(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        if self.read_only {
            return Err(DiskError::ReadOnly { path: self.file.path().to_owned() });
        }
        check_range(offset, length, self.size)?;
        let mut content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((place, digits)) = content.as_ref() {
            self.file.write_at(*place, digits.as_bytes())?;
            *content = None;
        }
        Ok(())
    }
}

impl Disk for VmdkDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    /// Of the longest of its files.
    fn file_length(&self) -> u64 {
        let files = self.extents.iter().filter_map(Placed::file);
        files.map(|file| file.length().unwrap_or(0)).max().unwrap_or(0)
    }

    fn read_at(&self, offset: u64, data: &mut [u8]) -> Result<(), DiskError> {
        check_range(offset, length_of(data), self.size)?;
        self.each(offset, length_of(data), |extent, at, part| {
            extent.read(at, data.get_mut(part).unwrap_or_default())
        })
    }

    fn data_from(&self, offset: u64) -> Result<Option<Range<u64>>, DiskError> {
        let first = self.extents.partition_point(|extent| extent.range.end <= offset);
        for extent in self.extents.iter().skip(first) {
            if let Some(found) = extent.data_from(offset.max(extent.range.start))? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.begin_change(offset, length_of(data))?;
        self.each(offset, length_of(data), |extent, at, part| {
            extent.write(at, data.get(part).unwrap_or_default())
        })
    }

    fn flush(&self) -> Result<(), DiskError> {
        if self.read_only {
            return Ok(());
        }
        // A descriptor in an extent is flushed with that.
        if !self.extents.first().and_then(Placed::file).is_some_and(|first| Arc::ptr_eq(first, &self.file)) {
            self.file.sync()?;
        }
        self.extents.iter().try_for_each(Placed::flush)
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.begin_change(offset, length)?;
        self.each(offset, length, |extent, at, part| extent.discard(at, part.len() as u64))
    }

    fn write_zeroes(&self, offset: u64, length: u64, may_unmap: bool) -> Result<(), DiskError> {
        self.begin_change(offset, length)?;
        self.each(offset, length, |extent, at, part| extent.write_zeroes(at, part.len() as u64, may_unmap))
    }
}

/// The file of an image that has the descriptor.
#[derive(Debug)]
struct Image {
    /// The header of the extent that the descriptor lies in.
    header: Option<Header>,
    descriptor: Descriptor,
    /// Where the descriptor begins, in bytes.
    descriptor_at: u64,
}

impl Image {
    fn read(file: &dyn Storage) -> Result<Self, DiskError> {
        let wrong = |reason: String| bad(file, reason);
        let mut start = [0; BEGINNING.len()];
        file.read_some(0, &mut start)?;
        let (header, at, length) = if take::<4>(&start, 0) == MAGIC {
            let header = Header::read(file)?;
            if header.descriptor == 0 {
                return Err(wrong(
                    "it is a part of an image and has no descriptor; give the file that has".into(),
                ));
            }
            let place = |sectors: u64| sectors.saturating_mul(SECTOR);
            (Some(header), place(header.descriptor), place(header.descriptor_size))
        } else if start == BEGINNING {
            (None, 0, file.length()?)
        } else {
            return Err(wrong("it does not begin like one".into()));
        };
        if length > MAX_LENGTH {
            return Err(wrong(format!("its descriptor has {length} bytes; up to {MAX_LENGTH} are read")));
        }
        let mut text = vec![0; index(length)];
        file.read_at(at, &mut text)?;
        let descriptor = Descriptor::parse(&text).map_err(wrong)?;
        if descriptor.create_type().is_some_and(|known| known.is_one_file() != header.is_some()) {
            let place = if header.is_some() { "in an extent" } else { "in a file of its own" };
            return Err(wrong(format!(
                "its descriptor lies {place}, and says that it is {}",
                descriptor.create_type
            )));
        }
        Ok(Self { header, descriptor, descriptor_at: at })
    }

    /// The size of the disk in bytes.
    fn size(&self) -> u64 {
        let sectors = self.header.map_or_else(|| self.descriptor.sectors(), |header| header.capacity);
        sectors.saturating_mul(SECTOR)
    }
}

/// A content ID that no other image has, most likely.
fn any_content_id() -> u32 {
    // All ones stand for none.
    (RandomState::new().hash_one(0) as u32) & !1
}

/// Another content ID than `now`, in so many digits as there is room for.
fn other_content_id(now: u32, digits: usize) -> String {
    let bits = (digits as u32).saturating_mul(4);
    let any = any_content_id() & u32::MAX.wrapping_shr(32_u32.saturating_sub(bits));
    let other = if any == now { any ^ 2 } else { any };
    format!("{other:0digits$x}")
}

/// What is wrong with an image.
fn bad(file: &dyn Storage, reason: String) -> DiskError {
    DiskError::BadImage { path: file.path().to_owned(), reason }
}
