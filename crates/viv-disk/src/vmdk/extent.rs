//! The parts of an open disk.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use super::descriptor::{Descriptor, Kind, Part};
use super::header::{Header, MAX_DIRECTORY};
use super::sparse::SparseExtent;
use super::{TABLES, bad};
use crate::storage::Storage;
use crate::{DiskError, SECTOR};

/// Opens the file of an extent by its name.
pub(super) type Beside<'a> = dyn Fn(&str) -> Result<Arc<dyn Storage>, DiskError> + 'a;

/// An open extent, and which bytes of the disk it has. Offsets are from its own beginning, unless it is said otherwise.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) range: Range<u64>,
    extent: Extent,
}

#[derive(Debug)]
enum Extent {
    Sparse(Box<SparseExtent>),
    /// From this offset of a file on.
    Flat(Arc<dyn Storage>, u64),
    Zero,
}

impl Placed {
    /// The extent that is the whole disk.
    pub(super) fn whole(file: Arc<dyn Storage>, header: Header, write: bool) -> Result<Self, DiskError> {
        let range = 0..header.capacity.saturating_mul(SECTOR);
        let extent = SparseExtent::open(file, header, write, TABLES)?;
        Ok(Self { range, extent: Extent::Sparse(Box::new(extent)) })
    }

    /// The file that it lies in.
    pub(super) fn file(&self) -> Option<&Arc<dyn Storage>> {
        match &self.extent {
            Extent::Sparse(sparse) => Some(sparse.file()),
            Extent::Flat(file, _) => Some(file),
            Extent::Zero => None,
        }
    }

    pub(super) fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), DiskError> {
        match &self.extent {
            Extent::Sparse(sparse) => sparse.read(offset, data),
            Extent::Flat(file, start) => file.read_at(start.saturating_add(offset), data),
            Extent::Zero => {
                data.fill(0);
                Ok(())
            }
        }
    }

    /// The first range of the disk at or behind an offset of the disk that may hold something else than zeroes.
    pub(super) fn data_from(&self, offset: u64) -> Result<Option<Range<u64>>, DiskError> {
        let own = offset.saturating_sub(self.range.start);
        let (found, start) = match &self.extent {
            Extent::Sparse(sparse) => (sparse.data_from(own)?, 0),
            Extent::Flat(file, start) => (file.data_from(start.saturating_add(own))?, *start),
            Extent::Zero => (None, 0),
        };
        let place = |at: u64| at.saturating_sub(start).saturating_add(self.range.start).min(self.range.end);
        Ok(found.map(|found| place(found.start)..place(found.end)).filter(|found| !found.is_empty()))
    }

    pub(super) fn write(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        match &self.extent {
            Extent::Sparse(sparse) => sparse.write(offset, data),
            Extent::Flat(file, start) => file.write_at(start.saturating_add(offset), data),
            // The descriptor's check has refused to open it for writing.
            Extent::Zero => Ok(()),
        }
    }

    pub(super) fn flush(&self) -> Result<(), DiskError> {
        match &self.extent {
            Extent::Sparse(sparse) => sparse.flush(),
            Extent::Flat(file, _) => file.sync(),
            Extent::Zero => Ok(()),
        }
    }

    pub(super) fn discard(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        match &self.extent {
            Extent::Sparse(sparse) => sparse.discard(offset, length),
            Extent::Flat(file, start) => file.discard(start.saturating_add(offset), length),
            Extent::Zero => Ok(()),
        }
    }

    pub(super) fn write_zeroes(&self, offset: u64, length: u64, may_unmap: bool) -> Result<(), DiskError> {
        match &self.extent {
            Extent::Sparse(sparse) => sparse.write_zeroes(offset, length, may_unmap),
            Extent::Flat(file, start) => file.write_zeroes(start.saturating_add(offset), length, may_unmap),
            Extent::Zero => Ok(()),
        }
    }
}

/// Opens the extents that a descriptor in a file of its own names.
pub(super) fn open(
    image: &dyn Storage,
    descriptor: &Descriptor,
    write: bool,
    beside: &Beside<'_>,
) -> Result<Vec<Placed>, DiskError> {
    let mut extents = Vec::new();
    let mut names = HashSet::new();
    let (mut at, mut entries) = (0_u64, 0_u64);
    let memory = TABLES.checked_div(descriptor.parts.len() as u64).unwrap_or(TABLES);
    for part in &descriptor.parts {
        if part.kind != Kind::Zero && !names.insert(part.file.as_str()) {
            return Err(bad(image, format!("it names its extent '{}' twice", part.file)));
        }
        let length = part.sectors.saturating_mul(SECTOR);
        let extent = match part.kind {
            Kind::Zero => Extent::Zero,
            Kind::Flat(offset) => flat(beside(&part.file)?, offset, part)?,
            Kind::Sparse => {
                let file = beside(&part.file)?;
                let header = Header::read(&*file)?;
                if header.capacity != part.sectors {
                    let reason = format!(
                        "it has {} sectors, and its descriptor says {}",
                        header.capacity, part.sectors
                    );
                    return Err(bad(&*file, reason));
                }
                if header.is_compressed() {
                    // One grain of each such extent is kept unpacked, which is not for hundreds of them.
                    return Err(bad(&*file, "it is compressed, and only a part of an image".into()));
                }
                entries = entries.saturating_add(header.directory_entries());
                if entries > MAX_DIRECTORY {
                    return Err(bad(
                        image,
                        format!("its grain directories have more than {MAX_DIRECTORY} entries"),
                    ));
                }
                Extent::Sparse(Box::new(SparseExtent::open(file, header, write, memory)?))
            }
        };
        let end = at.saturating_add(length);
        extents.push(Placed { range: at..end, extent });
        at = end;
    }
    Ok(extents)
}

fn flat(file: Arc<dyn Storage>, offset: u64, part: &Part) -> Result<Extent, DiskError> {
    let start = offset.checked_mul(SECTOR);
    let end = start.and_then(|start| start.checked_add(part.sectors.checked_mul(SECTOR)?));
    let length = file.length()?;
    match (start, end) {
        (Some(start), Some(end)) if end <= length => Ok(Extent::Flat(file, start)),
        _ => {
            let reason = format!(
                "it has {length} bytes, and its descriptor says {} sectors from sector {offset} on",
                part.sectors
            );
            Err(bad(&*file, reason))
        }
    }
}
