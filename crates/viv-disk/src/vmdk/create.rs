//! New images of one file that grows.

use super::any_content_id;
use super::descriptor::{CreateType, Descriptor};
use super::header::{Header, TABLE_SECTORS};
use crate::storage::Storage;
use crate::{DiskError, SECTOR};

/// Sectors of a grain, as everybody has it.
pub(super) const GRAIN: u64 = 128;
/// Sectors for the descriptor, which is behind the header.
pub(super) const DESCRIPTOR_SECTORS: u64 = 20;

/// The header of a new image of `size` bytes, with a place for its descriptor.
pub(super) fn header(file: &dyn Storage, size: u64, compressed: bool) -> Result<Header, DiskError> {
    let refuse = |reason| DiskError::CannotCreate { path: file.path().to_owned(), reason };
    // A sector's number has 32 bits, and tables are in the same file.
    const MOST: u64 = 2 << 40;
    if size == 0 || !size.is_multiple_of(SECTOR) || size > MOST {
        return Err(refuse(format!(
            "a disk in one vmdk file has whole sectors and at most 2 TiB, which {size} bytes are not"
        )));
    }
    let mut header = Header::new(size / SECTOR, GRAIN, compressed);
    (header.descriptor, header.descriptor_size) = (1, DESCRIPTOR_SECTORS);
    Ok(header)
}

/// The descriptor of a new image, padded with zeroes. `name` is the file's.
pub(super) fn descriptor(create_type: CreateType, name: &str, header: &Header) -> Vec<u8> {
    // It is one line, whatever is in it.
    let name = name.replace(|letter: char| letter.is_control() || letter == '"', "_");
    let mut text = Descriptor::write(create_type, &name, header.capacity, any_content_id()).into_bytes();
    text.resize((DESCRIPTOR_SECTORS * SECTOR) as usize, 0);
    text
}

/// Writes an empty image into an empty file that is going to have this name.
pub(crate) fn write_new(file: &dyn Storage, name: &str, size: u64) -> Result<(), DiskError> {
    let mut header = header(file, size, false)?;
    let tables = header.directory_entries().saturating_mul(TABLE_SECTORS);
    // A directory, its tables, the other directory, its tables.
    let each = header.directory_sectors().saturating_add(tables);
    header.redundant = header.descriptor.saturating_add(DESCRIPTOR_SECTORS);
    header.directory = header.redundant.saturating_add(each);
    let end = header.directory.saturating_add(each);
    header.overhead = end.checked_next_multiple_of(GRAIN).unwrap_or(end);
    file.set_length(header.overhead.saturating_mul(SECTOR))?;
    file.write_at(SECTOR, &descriptor(CreateType::MonolithicSparse, name, &header))?;
    for directory in [header.redundant, header.directory] {
        let first = directory.saturating_add(header.directory_sectors());
        let bytes: Vec<u8> = (0..header.directory_entries())
            .map(|number| first.saturating_add(number.saturating_mul(TABLE_SECTORS)) as u32)
            .flat_map(u32::to_le_bytes)
            .collect();
        file.write_at(directory.saturating_mul(SECTOR), &bytes)?;
    }
    file.write_at(0, &header.encode())?;
    file.sync()
}
