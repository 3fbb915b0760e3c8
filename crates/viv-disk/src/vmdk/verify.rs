//! What is looked at before a sparse extent is written: nothing in it may lie over anything else.
//!
//! Otherwise a guest that writes to its disk would write to the tables, or to the descriptor that names the image's files.

use std::ops::Range;

use super::bad;
use super::header::{Header, TABLE_ENTRIES};
use super::sparse::{bytes_at, table_range};
use crate::bytes::index;
use crate::storage::Storage;
use crate::{DiskError, SECTOR};

/// Reads all tables of an extent; where the next grain goes, in bytes.
///
/// # Errors
/// When a table is missing, or something overlaps, is not aligned, or does not lie in the file.
pub(super) fn verify(
    file: &dyn Storage,
    header: &Header,
    directory: &[u32],
    redundant: &[u32],
) -> Result<u64, DiskError> {
    if directory.iter().chain(redundant).any(|sector| *sector == 0) {
        return Err(bad(file, "some of its grain tables are missing; it can be read alone".into()));
    }
    let tables = tables(header, directory, redundant).map_err(|reason| bad(file, reason))?;
    let mut grains =
        Grains { grain: header.grain, length: file.length()?, tables: &tables, seen: Vec::new() };
    let mut bytes = vec![0; index(TABLE_ENTRIES.saturating_mul(4))];
    for sector in directory {
        file.read_at(bytes_at(*sector), &mut bytes)?;
        for grain in u32s(&bytes) {
            match grain {
                0 => {}
                1 if header.knows_zeroed_grains() => {}
                sector => grains.add(sector).map_err(|reason| bad(file, reason))?,
            }
        }
    }
    let end = tables.last().map_or(0, |last| last.end.saturating_mul(SECTOR)).max(grains.length);
    let grain = header.grain_bytes();
    end.checked_next_multiple_of(grain).ok_or_else(|| bad(file, format!("it has {end} bytes")))
}

/// The sectors of all that is no grain, in order, joined where they touch.
fn tables(header: &Header, directory: &[u32], redundant: &[u32]) -> Result<Vec<Range<u64>>, String> {
    let range = |start: u64, length: u64| start..start.saturating_add(length);
    let mut all = vec![range(0, 1)];
    if header.descriptor != 0 {
        all.push(range(header.descriptor, header.descriptor_size));
    }
    all.push(range(header.directory, header.directory_sectors()));
    if let Some(second) = header.redundant() {
        all.push(range(second, header.directory_sectors()));
    }
    all.extend(directory.iter().chain(redundant).map(|sector| table_range(*sector)));
    all.sort_unstable_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for next in all {
        match joined.last_mut() {
            Some(last) if next.start < last.end => {
                return Err(format!("its tables overlap at sector {}", next.start));
            }
            Some(last) if next.start == last.end => last.end = next.end,
            _ => joined.push(next),
        }
    }
    Ok(joined)
}

/// The grains that were seen.
struct Grains<'a> {
    /// Sectors of a grain.
    grain: u64,
    /// Bytes of the file.
    length: u64,
    tables: &'a [Range<u64>],
    /// A bit for each place of a grain in the file, up to the last one. At 2^32 sectors in grains of 8 that is 64 MiB.
    seen: Vec<u64>,
}

impl Grains<'_> {
    fn add(&mut self, sector: u32) -> Result<(), String> {
        let start = u64::from(sector);
        let end = start.saturating_add(self.grain);
        if !start.is_multiple_of(self.grain) {
            return Err(format!(
                "its grain at sector {sector} does not lie at a multiple of its size; it can be read alone"
            ));
        }
        if end.saturating_mul(SECTOR) > self.length {
            return Err(format!("its grain at sector {sector} lies behind its end"));
        }
        let after = self.tables.partition_point(|table| table.end <= start);
        if self.tables.get(after).is_some_and(|table| table.start < end) {
            return Err(format!("its grain at sector {sector} lies over its tables"));
        }
        let slot = start.checked_div(self.grain).unwrap_or(0);
        let word = index(slot / 64);
        if word >= self.seen.len() {
            self.seen.resize(word.saturating_add(1), 0);
        }
        let bit = 1_u64.wrapping_shl((slot % 64) as u32);
        match self.seen.get_mut(word) {
            Some(word) if *word & bit == 0 => *word |= bit,
            _ => return Err(format!("its grain at sector {sector} belongs to two places of the disk")),
        }
        Ok(())
    }
}

/// Little-endian numbers.
pub(super) fn u32s(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks().0.iter().map(|entry| u32::from_le_bytes(*entry)).collect()
}
