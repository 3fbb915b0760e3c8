//! Sparse extents: grains, found by a directory of tables.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::compress::{MAX_PACKED, unpack};
use super::header::{Header, TABLE_ENTRIES, TABLE_SECTORS};
use super::verify::{self, u32s};
use super::{MARKER_LENGTH, bad};
use crate::bytes::{index, le32, le64, put};
use crate::cache::Cache;
use crate::storage::Storage;
use crate::{DiskError, SECTOR};

/// Bytes of a grain table.
const TABLE: usize = (TABLE_ENTRIES * 4) as usize;

/// Where a grain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Grain {
    /// Nowhere: it reads as zeroes.
    Nowhere,
    /// At this sector of the file, compressed or not.
    At(u32),
}

/// The tables of an open extent.
#[derive(Debug)]
struct Tables {
    /// Grain tables by their number.
    cache: Cache,
    /// Where the next grain goes, in bytes.
    end: u64,
    /// Whether a sync has failed, after which nothing is promised.
    failed: bool,
}

/// A compressed grain that was read.
#[derive(Debug)]
struct Unpacked {
    /// Its sectors: in the file, and on the disk.
    place: (u32, u64),
    data: Arc<Vec<u8>>,
}

/// An open sparse extent.
///
/// Reads, and writes to grains that are there, share a lock on the tables. A grain that is new holds it alone: it goes to the
/// file's end, and its table is written by the next flush, when the grain has reached the disk. So an image is whole whenever
/// the power fails.
#[derive(Debug)]
pub(super) struct SparseExtent {
    file: Arc<dyn Storage>,
    header: Header,
    /// The sectors of grain tables; 0 for none.
    directory: Vec<u32>,
    /// The same of the second ones, which are written too; empty if there are none.
    redundant: Vec<u32>,
    tables: RwLock<Tables>,
    /// The compressed grain that was read last.
    unpacked: Mutex<Option<Unpacked>>,
}

impl SparseExtent {
    /// Opens an extent whose header was read, with so many bytes for tables in memory.
    ///
    /// # Errors
    /// When its directory cannot be read; for writing also when anything in it overlaps.
    pub(super) fn open(
        file: Arc<dyn Storage>,
        header: Header,
        write: bool,
        memory: u64,
    ) -> Result<Self, DiskError> {
        let directory = read_directory(&*file, &header, header.directory)?;
        let mut redundant = Vec::new();
        let mut end = 0;
        if write {
            if header.is_compressed() {
                return Err(bad(
                    &*file,
                    "its grains are compressed, and cannot be written in their place".into(),
                ));
            }
            if header.version > 2 {
                return Err(bad(&*file, "its version is 3: a record is kept of what changes in it, which would miss what is written here".into()));
            }
            if let Some(second) = header.redundant() {
                redundant = read_directory(&*file, &header, second)?;
            }
            end = verify::verify(&*file, &header, &directory, &redundant)?;
        }
        let cache = Cache::new(memory, TABLE as u64);
        Ok(Self {
            file,
            header,
            directory,
            redundant,
            tables: RwLock::new(Tables { cache, end, failed: false }),
            unpacked: Mutex::new(None),
        })
    }

    pub(super) fn file(&self) -> &Arc<dyn Storage> {
        &self.file
    }

    fn tables(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn tables_mut(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the grain table for `offset`, and where the grain's entry is in it, in bytes.
    fn slot(&self, offset: u64) -> (u64, usize) {
        let grain = offset.checked_div(self.header.grain_bytes()).unwrap_or(0);
        (grain / TABLE_ENTRIES, index(grain % TABLE_ENTRIES).saturating_mul(4))
    }

    fn within(&self, offset: u64) -> u64 {
        // The size of a grain is a power of two.
        offset & self.header.grain_bytes().wrapping_sub(1)
    }

    /// Where the grain at `offset` is; none if its table has to be read first.
    fn find(&self, tables: &Tables, offset: u64) -> Option<Grain> {
        let (table, entry) = self.slot(offset);
        if self.directory.get(index(table)).is_none_or(|place| *place == 0) {
            return Some(Grain::Nowhere);
        }
        Some(match le32(tables.cache.get(table)?, entry) {
            0 => Grain::Nowhere,
            1 if self.header.knows_zeroed_grains() => Grain::Nowhere,
            sector => Grain::At(sector),
        })
    }

    /// Where the grain at `offset` is, with the lock under which that stays so.
    fn locate(&self, offset: u64) -> Result<(RwLockReadGuard<'_, Tables>, Grain), DiskError> {
        let mut tables = self.tables();
        loop {
            if let Some(grain) = self.find(&tables, offset) {
                return Ok((tables, grain));
            }
            drop(tables);
            let mut alone = self.tables_mut();
            self.load(&mut alone, offset)?;
            tables = RwLockWriteGuard::downgrade(alone);
        }
    }

    /// Reads the table for `offset`, if it is not there.
    fn load(&self, tables: &mut Tables, offset: u64) -> Result<(), DiskError> {
        let (number, _) = self.slot(offset);
        let Some(sector) = self.directory.get(index(number)).filter(|_| !tables.cache.contains(number))
        else {
            return Ok(());
        };
        if !tables.cache.make_room() {
            self.commit(tables)?;
            tables.cache.make_room();
        }
        let mut bytes = vec![0; TABLE];
        self.file.read_at(bytes_at(*sector), &mut bytes)?;
        tables.cache.insert(number, bytes);
        Ok(())
    }

    /// The part of `length` bytes at `offset` that lies in the grain where they begin.
    fn piece(&self, offset: u64, length: usize) -> usize {
        index(self.header.grain_bytes().saturating_sub(self.within(offset))).min(length)
    }

    /// Fills `data`.
    pub(super) fn read(&self, mut offset: u64, mut data: &mut [u8]) -> Result<(), DiskError> {
        while let Some((part, rest)) = data.split_at_mut_checked(self.piece(offset, data.len()))
            && !part.is_empty()
        {
            let (_tables, grain) = self.locate(offset)?;
            match grain {
                Grain::Nowhere => part.fill(0),
                Grain::At(sector) if self.header.is_compressed() => {
                    let grain = self.unpacked(sector, offset)?;
                    let from =
                        grain.get(index(self.within(offset))..).and_then(|from| from.get(..part.len()));
                    let from =
                        from.ok_or_else(|| self.bad(format!("its grain at sector {sector} is too short")))?;
                    part.copy_from_slice(from);
                }
                Grain::At(sector) => self.file.read_at(self.place(sector, offset), part)?,
            }
            offset = offset.saturating_add(part.len() as u64);
            data = rest;
        }
        Ok(())
    }

    /// Where in the file the byte of the disk at `offset` is, whose grain is at `sector`.
    fn place(&self, sector: u32, offset: u64) -> u64 {
        bytes_at(sector).saturating_add(self.within(offset))
    }

    /// The compressed grain at `sector`, which is that of the disk at `offset`.
    fn unpacked(&self, sector: u32, offset: u64) -> Result<Arc<Vec<u8>>, DiskError> {
        let begins = offset.saturating_sub(self.within(offset)) / SECTOR;
        let mut last = self.unpacked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = last.as_ref().filter(|known| known.place == (sector, begins)) {
            return Ok(Arc::clone(&known.data));
        }
        let mut marker = [0; MARKER_LENGTH];
        self.file.read_at(bytes_at(sector), &mut marker)?;
        let (lba, length) = (le64(&marker, 0), u64::from(le32(&marker, 8)));
        if lba != begins {
            return Err(self
                .bad(format!("its grain at sector {sector} is for sector {lba} of the disk, not {begins}")));
        }
        let most = self.header.grain_bytes().saturating_add(MAX_PACKED);
        if length == 0 || length > most {
            return Err(self.bad(format!("its grain at sector {sector} takes {length} bytes")));
        }
        let mut packed = vec![0; index(length)];
        self.file.read_at(bytes_at(sector).saturating_add(MARKER_LENGTH as u64), &mut packed)?;
        let data = unpack(&packed, index(self.header.grain_bytes())).map_err(|reason| {
            self.bad(format!("its grain at sector {sector} cannot be unpacked: {reason}"))
        })?;
        let data = Arc::new(data);
        *last = Some(Unpacked { place: (sector, begins), data: Arc::clone(&data) });
        Ok(data)
    }

    /// Puts `data` at `offset`.
    pub(super) fn write(&self, mut offset: u64, mut data: &[u8]) -> Result<(), DiskError> {
        while let Some((part, rest)) = data.split_at_checked(self.piece(offset, data.len()))
            && !part.is_empty()
        {
            let (tables, grain) = self.locate(offset)?;
            match grain {
                Grain::At(sector) => self.file.write_at(self.place(sector, offset), part)?,
                Grain::Nowhere => {
                    drop(tables);
                    self.write_new(offset, part)?;
                }
            }
            offset = offset.saturating_add(part.len() as u64);
            data = rest;
        }
        Ok(())
    }

    /// Puts `data` into a grain that is nowhere yet, unless another thread was faster.
    fn write_new(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        let tables = &mut *self.tables_mut();
        self.load(tables, offset)?;
        if let Some(Grain::At(sector)) = self.find(tables, offset) {
            return self.file.write_at(self.place(sector, offset), data);
        }
        let place = tables.end;
        let end = place.saturating_add(self.header.grain_bytes());
        let sector = u32::try_from(place / SECTOR)
            .map_err(|_| self.bad("it is full: no extent grows beyond 2 TiB".into()))?;
        // What of the grain is not written is a hole, up to its last sector, by which the file becomes longer.
        self.file.write_at(end.saturating_sub(SECTOR), &[0; SECTOR as usize])?;
        // From here on, whatever becomes of the rest: the place may hold part of the data.
        tables.end = end;
        self.file.write_at(place.saturating_add(self.within(offset)), data)?;
        let (number, entry) = self.slot(offset);
        let Some(table) = tables.cache.get_mut(number) else {
            return Err(self.bad(format!("it has no grain table {number}")));
        };
        put(table, entry, &sector.to_le_bytes());
        Ok(())
    }

    /// Makes a range read as zeroes, and gives its space back if that may be. What is nowhere stays there.
    pub(super) fn write_zeroes(&self, offset: u64, length: u64, may_unmap: bool) -> Result<(), DiskError> {
        self.each_grain(offset, length, |place, length| self.file.write_zeroes(place, length, may_unmap))
    }

    /// Gives the space of a range back, if the host can.
    pub(super) fn discard(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.each_grain(offset, length, |place, length| self.file.discard(place, length))
    }

    /// Does something with each part of a range that is in the file.
    fn each_grain(
        &self,
        mut offset: u64,
        length: u64,
        mut each: impl FnMut(u64, u64) -> Result<(), DiskError>,
    ) -> Result<(), DiskError> {
        let end = offset.saturating_add(length);
        while let Some(data) = self.data_in(offset..end)? {
            if let (_tables, Grain::At(sector)) = self.locate(data.start)? {
                each(self.place(sector, data.start), data.end.saturating_sub(data.start))?;
            }
            offset = data.end;
        }
        Ok(())
    }

    /// What of the first grain at or behind `offset` that is in the file is not before `offset`.
    pub(super) fn data_from(&self, offset: u64) -> Result<Option<Range<u64>>, DiskError> {
        self.data_in(offset..self.header.capacity.saturating_mul(SECTOR))
    }

    /// What of `range` lies in the first grain of it that is in the file.
    fn data_in(&self, range: Range<u64>) -> Result<Option<Range<u64>>, DiskError> {
        let mut offset = range.start;
        while offset < range.end {
            let (number, _) = self.slot(offset);
            let span = if self.directory.get(index(number)).is_none_or(|place| *place == 0) {
                self.header.table_span()
            } else {
                self.header.grain_bytes()
            };
            // Spans are powers of two.
            let end = (offset & !span.wrapping_sub(1)).saturating_add(span).min(range.end);
            if let (_tables, Grain::At(_)) = self.locate(offset)? {
                return Ok(Some(offset..end));
            }
            offset = end;
        }
        Ok(None)
    }

    /// Makes durable what was written.
    pub(super) fn flush(&self) -> Result<(), DiskError> {
        // Most of the wait, while others go on.
        if let Err(error) = self.file.sync() {
            self.tables_mut().failed = true;
            return Err(error);
        }
        {
            let tables = self.tables();
            if !tables.failed && !tables.cache.is_dirty() {
                return Ok(());
            }
        }
        self.commit(&mut self.tables_mut())
    }

    /// Writes the tables that have changed, when the grains that they name have reached the disk.
    fn commit(&self, tables: &mut Tables) -> Result<(), DiskError> {
        if tables.failed {
            return Err(self.bad("it could not be written before; open it again".into()));
        }
        let done = self.commit_in_order(tables);
        // What was not written, for want of space, is written by the next commit. What a sync that failed has left in the
        // file is not known.
        tables.failed = !matches!(done, Ok(()) | Err(DiskError::Io { action: "write", .. }));
        done
    }

    fn commit_in_order(&self, tables: &mut Tables) -> Result<(), DiskError> {
        self.file.sync()?;
        for places in [&self.redundant, &self.directory] {
            for (number, bytes) in tables.cache.dirty() {
                if let Some(sector) = places.get(index(number)) {
                    self.file.write_at(bytes_at(*sector), bytes)?;
                }
            }
        }
        self.file.sync()?;
        tables.cache.written();
        Ok(())
    }

    fn bad(&self, reason: String) -> DiskError {
        bad(&*self.file, reason)
    }
}

impl Drop for SparseExtent {
    fn drop(&mut self) {
        let mut tables = self.tables_mut();
        if tables.cache.is_dirty() {
            // What was not flushed was not promised.
            let _ = self.commit(&mut tables);
        }
    }
}

/// Reads the grain directory at `sector`.
fn read_directory(file: &dyn Storage, header: &Header, sector: u64) -> Result<Vec<u32>, DiskError> {
    let missing = || bad(file, format!("its grain directory is said to be at sector {sector}"));
    let at = sector.checked_mul(SECTOR).filter(|at| *at != 0).ok_or_else(missing)?;
    let length = header.directory_entries().saturating_mul(4);
    if at.checked_add(length).is_none_or(|end| file.length().is_ok_and(|length| end > length)) {
        return Err(missing());
    }
    let mut bytes = vec![0; index(length)];
    file.read_at(at, &mut bytes)?;
    Ok(u32s(&bytes))
}

/// The offset of a sector in the file.
pub(super) fn bytes_at(sector: u32) -> u64 {
    u64::from(sector).saturating_mul(SECTOR)
}

/// Sectors of a grain table as a length in the file.
pub(super) fn table_range(sector: u32) -> Range<u64> {
    u64::from(sector)..u64::from(sector).saturating_add(TABLE_SECTORS)
}
