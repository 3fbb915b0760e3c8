//! New images of compressed grains, written from beginning to end.

use super::MARKER_LENGTH;
use super::compress::pack;
use super::create::{self, GRAIN};
use super::descriptor::CreateType;
use super::header::{Header, Marker, TABLE_ENTRIES, TABLE_SECTORS};
use crate::bytes::index;
use crate::file::DiskFile;
use crate::{DiskError, SECTOR, length_of};

/// An image that is being written: its grains, in order, with a table behind those that it is for; then the directory, and
/// the footer, which says where that is.
#[derive(Debug)]
pub(crate) struct Stream {
    file: DiskFile,
    header: Header,
    /// The next sector of the file.
    next: u64,
    /// The sectors of the tables that were written.
    directory: Vec<u32>,
    /// The table for what is written now.
    table: Vec<u32>,
}

impl Stream {
    /// Begins an image of `size` bytes in an empty file that is going to have this name.
    pub(crate) fn begin(file: DiskFile, name: &str, size: u64) -> Result<Self, DiskError> {
        let mut header = create::header(&file, size, true)?;
        header.overhead = GRAIN;
        file.set_length(GRAIN.saturating_mul(SECTOR))?;
        file.write_at(SECTOR, &create::descriptor(CreateType::StreamOptimized, name, &header))?;
        file.write_at(0, &header.encode())?;
        let table = vec![0; index(TABLE_ENTRIES)];
        Ok(Self { file, header, next: GRAIN, directory: Vec::new(), table })
    }

    /// Puts grains at `offset`, behind all that were put before. The last grain of the disk may end with it.
    ///
    /// # Errors
    /// When they are not whole grains, or lie before what is written already; or when the host fails.
    pub(crate) fn append(&mut self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        let size = self.header.capacity.saturating_mul(SECTOR);
        let end = offset.saturating_add(length_of(data));
        let grain = self.header.grain_bytes();
        if !offset.is_multiple_of(grain) || end > size || (!end.is_multiple_of(grain) && end != size) {
            return Err(self.cannot(format!("{} bytes at {offset} are no whole grains", data.len())));
        }
        for (bytes, number) in data.chunks(index(grain)).zip(offset.checked_div(grain).unwrap_or(0)..) {
            self.append_grain(number, bytes)?;
        }
        Ok(())
    }

    fn append_grain(&mut self, number: u64, grain: &[u8]) -> Result<(), DiskError> {
        let (table, entry) = (number / TABLE_ENTRIES, index(number % TABLE_ENTRIES));
        self.tables_up_to(table)?;
        if table != self.directory.len() as u64 || self.table.get(entry) != Some(&0) {
            return Err(self.cannot(format!("grain {number} comes too late")));
        }
        let packed = pack(grain);
        let packed = packed.ok_or_else(|| self.cannot(format!("grain {number} cannot be compressed")))?;
        let sector = self.sector(self.next)?;
        if let Some(entry) = self.table.get_mut(entry) {
            *entry = sector;
        }
        let mut bytes = Vec::with_capacity(MARKER_LENGTH.saturating_add(packed.len()));
        bytes.extend(number.saturating_mul(self.header.grain).to_le_bytes());
        bytes.extend((packed.len() as u32).to_le_bytes());
        bytes.extend(packed);
        self.put(bytes)
    }

    /// A sector's number as tables have it.
    fn sector(&self, sector: u64) -> Result<u32, DiskError> {
        u32::try_from(sector).map_err(|_| self.cannot("no vmdk file grows beyond 2 TiB".into()))
    }

    /// Writes what is needed of the tables before that of this number.
    fn tables_up_to(&mut self, number: u64) -> Result<(), DiskError> {
        while (self.directory.len() as u64) < number {
            let empty = self.table.iter().all(|entry| *entry == 0);
            let place = if empty {
                0
            } else {
                self.put(Marker::Table.encode(TABLE_SECTORS).to_vec())?;
                let place = self.next;
                let bytes = self.table.iter().flat_map(|entry| entry.to_le_bytes()).collect();
                self.put(bytes)?;
                place
            };
            let place = self.sector(place)?;
            self.directory.push(place);
            self.table.fill(0);
        }
        Ok(())
    }

    /// Writes what is behind the grains.
    ///
    /// # Errors
    /// When the host fails.
    pub(crate) fn finish(mut self) -> Result<(), DiskError> {
        self.tables_up_to(self.header.directory_entries())?;
        self.put(Marker::Directory.encode(self.header.directory_sectors()).to_vec())?;
        let mut footer = self.header;
        footer.directory = self.next;
        let bytes = self.directory.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        self.put(bytes)?;
        self.put(Marker::Footer.encode(1).to_vec())?;
        self.put(footer.encode().to_vec())?;
        self.put(Marker::EndOfStream.encode(0).to_vec())
    }

    /// Puts bytes at the end, with zeroes up to a whole sector.
    fn put(&mut self, mut bytes: Vec<u8>) -> Result<(), DiskError> {
        bytes.resize(bytes.len().next_multiple_of(SECTOR as usize), 0);
        self.file.write_at(self.next.saturating_mul(SECTOR), &bytes)?;
        self.next = self.next.saturating_add(length_of(&bytes) / SECTOR);
        Ok(())
    }

    fn cannot(&self, reason: String) -> DiskError {
        DiskError::CannotCreate { path: self.file.path().to_owned(), reason }
    }
}
