//! The header of a sparse extent.

use crate::bytes::{le16, le32, le64, put};
use crate::storage::Storage;
use crate::{DiskError, SECTOR};

use super::bad;

/// How a sparse extent begins.
pub(crate) const MAGIC: [u8; 4] = *b"KDMV";

/// Bytes of the header.
pub(super) const LENGTH: usize = 512;
/// Entries of a grain table.
pub(super) const TABLE_ENTRIES: u64 = 512;
/// Sectors of a grain table.
pub(super) const TABLE_SECTORS: u64 = 4;

/// Flags: the bytes that tell whether it went through something that changes ends of lines are there.
const NEWLINE_TEST: u32 = 1 << 0;
/// Flags: there is a second grain directory, with grain tables of its own.
const REDUNDANT: u32 = 1 << 1;
/// Flags: entries of grain tables may say that a grain is zeroes.
const ZEROED_GRAINS: u32 = 1 << 2;
/// Flags: grains are compressed.
const COMPRESSED: u32 = 1 << 16;
/// Flags: grains and tables begin with markers.
const MARKERS: u32 = 1 << 17;

/// The test bytes: an end of line, none, and one of two bytes.
const NEWLINES: [u8; 4] = *b"\n \r\n";
/// The only compression there is.
const DEFLATE: u16 = 1;
/// A grain directory that is named by the footer.
const AT_END: u64 = u64::MAX;

/// Sectors of the smallest grain that the format knows, and of the largest that is read here.
const GRAINS: std::ops::RangeInclusive<u64> = 8..=4096;
/// The largest grain directory, in entries: for 64 TiB in grains of 64 KiB, twice.
pub(super) const MAX_DIRECTORY: u64 = 4 << 20;

/// Offsets of fields.
mod field {
    pub(super) const VERSION: usize = 4;
    pub(super) const FLAGS: usize = 8;
    pub(super) const CAPACITY: usize = 12;
    pub(super) const GRAIN: usize = 20;
    pub(super) const DESCRIPTOR: usize = 28;
    pub(super) const DESCRIPTOR_SIZE: usize = 36;
    pub(super) const TABLE_ENTRIES: usize = 44;
    pub(super) const REDUNDANT: usize = 48;
    pub(super) const DIRECTORY: usize = 56;
    pub(super) const OVERHEAD: usize = 64;
    pub(super) const NEWLINES: usize = 73;
    pub(super) const COMPRESSION: usize = 77;
}

/// Kinds of markers that are no grains: sectors with a number at 8 that is 0 and a kind at 12.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Marker {
    EndOfStream = 0,
    Table = 1,
    Directory = 2,
    Footer = 3,
}

impl Marker {
    /// A marker before something of so many sectors.
    pub(super) fn encode(self, sectors: u64) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        put(&mut bytes, 0, &sectors.to_le_bytes());
        put(&mut bytes, 12, &(self as u32).to_le_bytes());
        bytes
    }

    fn is(self, bytes: &[u8]) -> bool {
        le32(bytes, 8) == 0 && le32(bytes, 12) == self as u32
    }
}

/// What a sparse extent says about itself. Places and sizes are sectors of the file, or of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: u32,
    flags: u32,
    /// Sectors of the disk.
    pub(super) capacity: u64,
    /// Sectors of a grain.
    pub(super) grain: u64,
    /// Where the embedded descriptor is; 0 if there is none.
    pub(super) descriptor: u64,
    pub(super) descriptor_size: u64,
    /// The second grain directory; 0 if there is none.
    pub(super) redundant: u64,
    pub(super) directory: u64,
    /// Where grains begin.
    pub(super) overhead: u64,
}

impl Header {
    /// The header of a new extent that is compressed, or else has two grain directories.
    pub(super) fn new(capacity: u64, grain: u64, compressed: bool) -> Self {
        let of_kind = if compressed { COMPRESSED | MARKERS } else { REDUNDANT };
        Self {
            version: if compressed { 3 } else { 1 },
            flags: NEWLINE_TEST | of_kind,
            capacity,
            grain,
            descriptor: 0,
            descriptor_size: 0,
            redundant: 0,
            directory: if compressed { AT_END } else { 0 },
            overhead: 0,
        }
    }

    /// Reads the header of an extent, and its footer where that has the rest.
    pub(super) fn read(file: &dyn Storage) -> Result<Self, DiskError> {
        let mut bytes = [0; LENGTH];
        file.read_at(0, &mut bytes)?;
        let header = Self::decode(&bytes).map_err(|reason| bad(file, reason))?;
        if header.directory != AT_END {
            return Ok(header);
        }
        // Its marker, the footer, and the marker at the end.
        let mut end = [0; 3 * LENGTH];
        let sectors = file.length()?.checked_div(SECTOR).unwrap_or(0);
        file.read_at(sectors.saturating_sub(3).saturating_mul(SECTOR), &mut end)?;
        let (markers, _) = end.as_chunks::<LENGTH>();
        let footer = match markers {
            [before, footer, after] if Marker::Footer.is(before) && Marker::EndOfStream.is(after) => {
                Self::decode(footer).map_err(|reason| bad(file, format!("of its footer, {reason}")))?
            }
            _ => return Err(bad(file, "its end is missing: it has no footer".into())),
        };
        if footer.directory == AT_END || (footer.capacity, footer.grain) != (header.capacity, header.grain) {
            return Err(bad(file, "its footer contradicts its header".into()));
        }
        Ok(footer)
    }

    fn decode(bytes: &[u8; LENGTH]) -> Result<Self, String> {
        if !bytes.starts_with(&MAGIC) {
            return Err("it does not begin like a sparse extent".into());
        }
        let header = Self {
            version: le32(bytes, field::VERSION),
            flags: le32(bytes, field::FLAGS),
            capacity: le64(bytes, field::CAPACITY),
            grain: le64(bytes, field::GRAIN),
            descriptor: le64(bytes, field::DESCRIPTOR),
            descriptor_size: le64(bytes, field::DESCRIPTOR_SIZE),
            redundant: le64(bytes, field::REDUNDANT),
            directory: le64(bytes, field::DIRECTORY),
            overhead: le64(bytes, field::OVERHEAD),
        };
        if !(1..=3).contains(&header.version) {
            return Err(format!("its format has version {}; versions 1 to 3 are known", header.version));
        }
        let unknown = header.flags & !(NEWLINE_TEST | REDUNDANT | ZEROED_GRAINS | COMPRESSED | MARKERS);
        if unknown != 0 {
            return Err(format!("it uses features that are not known, flags {unknown:#x}"));
        }
        if header.flags & NEWLINE_TEST != 0
            && bytes.get(field::NEWLINES..field::COMPRESSION) != Some(&NEWLINES)
        {
            return Err("it was copied as if it were text, which damages it".into());
        }
        if !header.grain.is_power_of_two() || !GRAINS.contains(&header.grain) {
            return Err(format!(
                "its grains have {} sectors; powers of two from {} to {} are supported",
                header.grain,
                GRAINS.start(),
                GRAINS.end()
            ));
        }
        let entries = le32(bytes, field::TABLE_ENTRIES);
        if u64::from(entries) != TABLE_ENTRIES {
            return Err(format!("its grain tables have {entries} entries; {TABLE_ENTRIES} are supported"));
        }
        if header.capacity == 0 || header.capacity.checked_mul(SECTOR).is_none() {
            return Err(format!("it says that the disk has {} sectors", header.capacity));
        }
        if header.directory_entries() > MAX_DIRECTORY {
            return Err(format!(
                "its grain directory has {} entries; up to {MAX_DIRECTORY} are supported",
                header.directory_entries()
            ));
        }
        let compression = le16(bytes, field::COMPRESSION);
        if header.is_compressed() && (compression != DEFLATE || header.flags & MARKERS == 0) {
            return Err(format!(
                "its grains are compressed by method {compression}, or without markers, which is not supported"
            ));
        }
        Ok(header)
    }

    /// The first sector of an extent that begins so.
    pub(super) fn encode(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        let mut set = |offset, value: &[u8]| put(&mut bytes, offset, value);
        set(0, &MAGIC);
        set(field::VERSION, &self.version.to_le_bytes());
        set(field::FLAGS, &self.flags.to_le_bytes());
        set(field::CAPACITY, &self.capacity.to_le_bytes());
        set(field::GRAIN, &self.grain.to_le_bytes());
        set(field::DESCRIPTOR, &self.descriptor.to_le_bytes());
        set(field::DESCRIPTOR_SIZE, &self.descriptor_size.to_le_bytes());
        set(field::TABLE_ENTRIES, &(TABLE_ENTRIES as u32).to_le_bytes());
        set(field::REDUNDANT, &self.redundant.to_le_bytes());
        set(field::DIRECTORY, &self.directory.to_le_bytes());
        set(field::OVERHEAD, &self.overhead.to_le_bytes());
        set(field::NEWLINES, &NEWLINES);
        set(field::COMPRESSION, &if self.is_compressed() { DEFLATE } else { 0 }.to_le_bytes());
        bytes
    }

    pub(super) fn is_compressed(&self) -> bool {
        self.flags & COMPRESSED != 0
    }

    /// Whether an entry of 1 says that a grain is zeroes.
    pub(super) fn knows_zeroed_grains(&self) -> bool {
        self.flags & ZEROED_GRAINS != 0
    }

    /// The second grain directory, if there is one.
    pub(super) fn redundant(&self) -> Option<u64> {
        (self.flags & REDUNDANT != 0 && self.redundant != 0).then_some(self.redundant)
    }

    /// Bytes of a grain.
    pub(super) fn grain_bytes(&self) -> u64 {
        self.grain.saturating_mul(SECTOR)
    }

    /// Bytes of the disk for which one grain table is.
    pub(super) fn table_span(&self) -> u64 {
        self.grain_bytes().saturating_mul(TABLE_ENTRIES)
    }

    /// Entries of a grain directory.
    pub(super) fn directory_entries(&self) -> u64 {
        self.capacity.div_ceil(self.grain.saturating_mul(TABLE_ENTRIES).max(1))
    }

    /// Sectors of a grain directory.
    pub(super) fn directory_sectors(&self) -> u64 {
        self.directory_entries().saturating_mul(4).div_ceil(SECTOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_they_were_written() {
        let mut header = Header::new(1 << 20, 128, false);
        (header.descriptor, header.descriptor_size, header.redundant) = (1, 20, 21);
        (header.directory, header.overhead) = (90, 256);
        assert_eq!(Header::decode(&header.encode()), Ok(header));
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        let refused = |offset: usize, value: &[u8]| {
            let mut bytes = Header::new(1 << 20, 128, true).encode();
            put(&mut bytes, offset, value);
            Header::decode(&bytes).unwrap_err()
        };
        assert!(refused(0, b"COWD").contains("begin"));
        assert!(refused(field::VERSION, &[4]).contains("version 4"));
        assert!(refused(field::FLAGS, &[1 << 3]).contains("0x8"));
        assert!(refused(field::NEWLINES, b"\r\n").contains("text"));
        for grain in [0_u64, 4, 100, 8192, u64::MAX] {
            assert!(refused(field::GRAIN, &grain.to_le_bytes()).contains("grains have"));
        }
        assert!(refused(field::TABLE_ENTRIES, &[0, 4]).contains("1024 entries"));
        assert!(refused(field::CAPACITY, &[0; 8]).contains("0 sectors"));
        assert!(refused(field::CAPACITY, &[0xff; 8]).contains("sectors"));
        assert!(refused(field::CAPACITY, &(1_u64 << 54).to_le_bytes()).contains("directory has"));
        assert!(refused(field::COMPRESSION, &[2]).contains("method 2"));
        assert!(refused(field::FLAGS + 2, &[1]).contains("without markers"));
    }
}
