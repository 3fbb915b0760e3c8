//! Checking an image: what refers to each cluster, against what is counted; and repair.
//!
//! A repair counts anew: refcounts are written behind everything, and the header names them when they are durable. What
//! was there before stays valid until then.

use std::collections::BTreeMap;
use std::path::Path;

use super::create::write_refcounts;
use super::entry::{COPIED, OFFSET};
use super::geometry::Geometry;
use super::header::{CORRUPT, DIRTY, Header, field};
use super::meta::decode;
use super::{bad, read_header, snapshots};
use crate::DiskError;
use crate::bytes::{be32, be64, index, table_of};
use crate::file::DiskFile;
use crate::storage::Storage;

/// Clusters of a file that can be checked: their counts take 1 GiB of memory.
const MAX_CLUSTERS: u64 = 1 << 28;
/// Findings that are told one by one.
const MAX_NOTES: usize = 50;

/// What may be repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// Nothing.
    No,
    /// Clusters that nothing refers to are given back.
    Leaks,
    /// Refcounts and flags are made what they must be.
    All,
}

/// What a check found.
#[derive(Debug, Clone, Default)]
pub struct Check {
    /// Clusters of the file.
    pub clusters: u64,
    /// Of these, how many something refers to.
    pub used: u64,
    /// Clusters that are counted and that nothing refers to: lost space.
    pub leaks: u64,
    /// What is wrong and endangers data.
    pub errors: u64,
    /// Leaks that were repaired, not among [`Check::leaks`].
    pub leaks_repaired: u64,
    /// Errors that were repaired, not among [`Check::errors`].
    pub errors_repaired: u64,
    /// The first findings in words.
    pub notes: Vec<String>,
}

/// Checks the image at `path`, and repairs it if that is wanted.
///
/// # Errors
/// When the file cannot be read or written, is in use, is too large for the check, or is no image that can be used.
pub fn check(path: &Path, repair: Repair) -> Result<Check, DiskError> {
    check_file(&DiskFile::open(path, repair != Repair::No)?, repair)
}

/// [`check`] on any file.
pub(super) fn check_file(file: &dyn Storage, repair: Repair) -> Result<Check, DiskError> {
    let header = read_header(file)?;
    header.refuse(false).map_err(|reason| bad(file, reason))?;
    let geometry = header.geometry;
    let clusters = geometry.clusters_for(file.length()?);
    if clusters > MAX_CLUSTERS {
        return Err(bad(file, format!("it has {clusters} clusters; up to {MAX_CLUSTERS} can be checked")));
    }
    let mut walk = Walk {
        file,
        geometry,
        counts: vec![0; index(clusters)],
        tables: BTreeMap::new(),
        alone: Vec::new(),
        found: Check { clusters, ..Check::default() },
    };
    walk.everything(&header)?;
    let referred = walk.counts.clone();
    let mut counts = 0_u64;
    let blocks = walk.refcount_structures(&header, &mut counts)?;
    counts = counts.saturating_add(walk.compare(&blocks)?);
    walk.found.used = walk.counts.iter().filter(|count| **count > 0).count() as u64;
    if repair == Repair::All {
        // Present refcounts will be gone from where they are.
        walk.counts.clone_from(&referred);
    }
    let wrong_flags = walk.flags(&header, repair == Repair::All)?;

    let mut found = walk.found;
    let unrepairable = found.errors;
    let leaks = found.leaks;
    found.errors = unrepairable.saturating_add(counts).saturating_add(wrong_flags);
    let flags = header.incompatible & (DIRTY | CORRUPT);
    let wanted = match repair {
        Repair::No => false,
        Repair::Leaks => leaks > 0 && found.errors == 0 && flags == 0,
        Repair::All => leaks > 0 || found.errors > 0 || flags != 0,
    };
    if wanted {
        let count = |cluster| referred.get(index(cluster)).copied().unwrap_or(0).into();
        rebuild(file, &header, clusters, count)?;
        (found.leaks, found.leaks_repaired) = (0, leaks);
        (found.errors, found.errors_repaired) = (unrepairable, counts.saturating_add(wrong_flags));
        if unrepairable == 0 && flags != 0 {
            let cleared = header.incompatible & !flags;
            file.write_at(field::INCOMPATIBLE, &cleared.to_be_bytes())?;
            file.sync()?;
        }
    }
    Ok(found)
}

/// Writes refcounts anew and makes them the image's.
fn rebuild(
    file: &dyn Storage,
    header: &Header,
    clusters: u64,
    count: impl Fn(u64) -> u64,
) -> Result<(), DiskError> {
    let (table, length) = write_refcounts(file, header.geometry, clusters, count)?;
    let mut place = table.to_be_bytes().to_vec();
    place.extend(length.to_be_bytes());
    file.write_at(field::REFCOUNT_TABLE, &place)?;
    file.sync()
}

struct Walk<'a> {
    file: &'a dyn Storage,
    geometry: Geometry,
    /// How often each cluster is referred to.
    counts: Vec<u32>,
    /// L2 tables by offset: how often L1 tables name them.
    tables: BTreeMap<u64, u32>,
    /// What else nothing may overlap: what it is, its offset and its length.
    alone: Vec<(&'static str, u64, u64)>,
    found: Check,
}

impl Walk<'_> {
    fn note(&mut self, text: String) {
        if self.found.notes.len() < MAX_NOTES {
            self.found.notes.push(text);
        }
    }

    fn error(&mut self, text: String) {
        self.found.errors = self.found.errors.saturating_add(1);
        self.note(text);
    }

    /// Counts `times` references to each cluster of a range; whether it lies in the file.
    fn refer(&mut self, what: &str, offset: u64, length: u64, times: u32) -> bool {
        if length == 0 {
            return true;
        }
        let first = self.geometry.cluster_of(offset);
        let last = self.geometry.cluster_of(offset.saturating_add(length).saturating_sub(1));
        match self.counts.get_mut(index(first)..=index(last)) {
            Some(counts) => {
                counts.iter_mut().for_each(|count| *count = count.saturating_add(times));
                true
            }
            None => {
                self.error(format!("{what} at offset {offset} lies behind the end of the file"));
                false
            }
        }
    }

    /// Counts all but refcounts.
    fn everything(&mut self, header: &Header) -> Result<(), DiskError> {
        let (snapshots, length) = snapshots::read(self.file, header)?;
        self.refer_alone("the header", 0, 1);
        self.refer_alone("the snapshot table", header.snapshots_offset, length);
        self.l1("the L1 table", header.l1_offset, header.l1_size)?;
        for snapshot in snapshots {
            self.l1("the L1 table of a snapshot", snapshot.l1_offset, snapshot.l1_size)?;
        }
        self.bitmaps(header)?;
        let tables = std::mem::take(&mut self.tables);
        for (table, times) in &tables {
            self.l2(*table, *times)?;
        }
        for (table, times) in tables {
            if self.count(self.geometry.cluster_of(table)) != times {
                self.error(format!("the L2 table at offset {table} and something else overlap"));
            }
        }
        for (what, offset, length) in std::mem::take(&mut self.alone) {
            let last = self.geometry.cluster_of(offset.saturating_add(length).saturating_sub(1));
            if (self.geometry.cluster_of(offset)..=last).any(|cluster| self.count(cluster) != 1) {
                self.error(format!("{what} at offset {offset} and something else overlap"));
            }
        }
        Ok(())
    }

    /// Counts one reference to each cluster of a range that nothing else may refer to; whether it lies in the file.
    fn refer_alone(&mut self, what: &'static str, offset: u64, length: u64) -> bool {
        let inside = self.refer(what, offset, length, 1);
        if inside && length > 0 {
            self.alone.push((what, offset, length));
        }
        inside
    }

    fn read_l1(&mut self, offset: u64, entries: u32) -> Result<Vec<u64>, DiskError> {
        let mut bytes = vec![0; index(u64::from(entries).saturating_mul(8))];
        self.file.read_at(offset, &mut bytes)?;
        Ok(table_of(&bytes))
    }

    fn l1(&mut self, what: &'static str, offset: u64, entries: u32) -> Result<(), DiskError> {
        let length = u64::from(entries).saturating_mul(8);
        if length > super::header::MAX_L1 || self.geometry.within(offset) != 0 {
            self.error(format!("{what} of {entries} entries cannot be at offset {offset}"));
            return Ok(());
        }
        if !self.refer_alone(what, offset, length) {
            return Ok(());
        }
        for (number, entry) in self.read_l1(offset, entries)?.into_iter().enumerate() {
            let table = entry & OFFSET;
            if table == 0 {
                continue;
            }
            if self.geometry.within(table) != 0 || entry & !(OFFSET | COPIED) != 0 {
                self.error(format!("entry {number} of {what} is {entry:#x}, which cannot be"));
            } else if self.refer("an L2 table", table, 1, 1) {
                let times = self.tables.entry(table).or_default();
                *times = times.saturating_add(1);
            }
        }
        Ok(())
    }

    fn read_cluster(&self, table: u64) -> Result<Vec<u8>, DiskError> {
        let mut bytes = vec![0; self.geometry.cluster_len()];
        let have = self.file.read_some(table, &mut bytes)?;
        bytes.get_mut(have..).unwrap_or_default().fill(0);
        Ok(bytes)
    }

    fn l2(&mut self, table: u64, times: u32) -> Result<(), DiskError> {
        let bytes = self.read_cluster(table)?;
        for number in 0..self.geometry.l2_entries() {
            let entry = decode(self.geometry, &bytes, number);
            if let Some(fault) = entry.fault(self.geometry) {
                self.error(format!("entry {number} of the L2 table at offset {table}: {fault}"));
            } else if let Some(packed) = entry.compressed(self.geometry) {
                // The file may end within the last sectors.
                let end = self.geometry.offset_of(self.found.clusters);
                let length = packed.length.min(end.saturating_sub(packed.offset)).max(1);
                self.refer("compressed data", packed.offset, length, times);
            } else if let Some(host) = entry.host() {
                self.refer("data", host, 1, times);
            }
        }
        Ok(())
    }

    /// Counts the directory of bitmaps, their tables and data.
    fn bitmaps(&mut self, header: &Header) -> Result<(), DiskError> {
        let Some((offset, length, bitmaps)) = header.bitmap_directory() else { return Ok(()) };
        if length > super::header::MAX_L1 || !self.refer("the directory of bitmaps", offset, length, 1) {
            return Ok(());
        }
        let mut directory = vec![0; index(length)];
        self.file.read_at(offset, &mut directory)?;
        let mut rest = directory.as_slice();
        for _ in 0..bitmaps {
            let (table, entries) = (be64(rest, 0), be32(rest, 8));
            let names = u64::from(crate::bytes::be16(rest, 18)).saturating_add(be32(rest, 20).into());
            self.bitmap(table, entries)?;
            let next = names.saturating_add(24 + 7) & !7;
            let Some(behind) = rest.get(index(next)..) else { break };
            rest = behind;
        }
        Ok(())
    }

    fn bitmap(&mut self, table: u64, entries: u32) -> Result<(), DiskError> {
        let length = u64::from(entries).saturating_mul(8);
        if length > super::header::MAX_L1 || !self.refer("the table of a bitmap", table, length, 1) {
            return Ok(());
        }
        for entry in self.read_l1(table, entries)? {
            if entry & OFFSET != 0 {
                self.refer("a bitmap", entry & OFFSET, 1, 1);
            }
        }
        Ok(())
    }

    /// Counts the refcount table and its blocks; the blocks' offsets, 0 where there is none. Those that cannot be are
    /// added to `wrong`: a repair makes others.
    fn refcount_structures(&mut self, header: &Header, wrong: &mut u64) -> Result<Vec<u64>, DiskError> {
        let length = self.geometry.offset_of(header.refcount_clusters.into());
        let end = header.refcount_table.saturating_add(length);
        if end > self.geometry.offset_of(self.found.clusters) {
            *wrong = wrong.saturating_add(1);
            self.note("the refcount table lies behind the end of the file".into());
            return Ok(Vec::new());
        }
        let clusters = self.geometry.cluster_of(header.refcount_table)..self.geometry.cluster_of(end);
        if clusters.into_iter().any(|cluster| self.count(cluster) > 0) {
            *wrong = wrong.saturating_add(1);
            self.note("the refcount table and something else overlap".into());
        }
        self.refer("the refcount table", header.refcount_table, length, 1);
        let mut bytes = vec![0; index(length)];
        self.file.read_at(header.refcount_table, &mut bytes)?;
        let mut blocks = table_of(&bytes);
        for block in blocks.iter_mut().filter(|block| **block != 0) {
            let cluster = self.geometry.cluster_of(*block);
            // Not where something else is, another entry's block included.
            let inside = self.geometry.within(*block) == 0 && cluster < self.found.clusters;
            if inside && self.count(cluster) == 0 {
                self.refer("a refcount block", *block, 1, 1);
            } else {
                *wrong = wrong.saturating_add(1);
                self.note(format!("a refcount block cannot be at offset {block}"));
                *block = 0;
            }
        }
        Ok(blocks)
    }

    /// Compares the counts with the refcounts of the image; how many clusters have too low a refcount.
    fn compare(&mut self, blocks: &[u64]) -> Result<u64, DiskError> {
        let mut wrong = 0_u64;
        let geometry = self.geometry;
        let last = geometry.block_of(self.found.clusters).0;
        for block in 0..last.saturating_add(1).max(blocks.len() as u64) {
            let first = block.saturating_mul(geometry.per_block());
            let offset = blocks.get(index(block)).copied().unwrap_or(0);
            if offset == 0 && first >= self.found.clusters {
                continue;
            }
            let bytes = if offset == 0 { Vec::new() } else { self.read_cluster(offset)? };
            for at in 0..geometry.per_block() {
                let cluster = first.saturating_add(at);
                let stored = geometry.refcount(&bytes, at);
                let counted = u64::from(self.count(cluster));
                if stored > counted {
                    self.found.leaks = self.found.leaks.saturating_add(1);
                    self.note(format!(
                        "cluster {cluster} has refcount {stored} and {counted} references: a leak"
                    ));
                } else if stored < counted {
                    wrong = wrong.saturating_add(1);
                    self.note(format!("cluster {cluster} has refcount {stored} and {counted} references"));
                }
            }
        }
        Ok(wrong)
    }

    fn count(&self, cluster: u64) -> u32 {
        self.counts.get(index(cluster)).copied().unwrap_or(0)
    }

    /// Looks for flags of the disk's tables that are not what the counts say, and puts them right if wanted; how many
    /// there were.
    fn flags(&mut self, header: &Header, repair: bool) -> Result<u64, DiskError> {
        let mut wrong = 0_u64;
        let l1 = self.read_l1(header.l1_offset, header.l1_size)?;
        for (number, entry) in (0_u64..).zip(l1) {
            let table = entry & OFFSET;
            if table == 0
                || self.geometry.within(table) != 0
                || self.count(self.geometry.cluster_of(table)) == 0
            {
                continue;
            }
            let place = header.l1_offset.saturating_add(number.saturating_mul(8));
            wrong = wrong.saturating_add(self.flag(entry, table, place, repair)?);
            let bytes = self.read_cluster(table)?;
            for number in 0..self.geometry.l2_entries() {
                let entry = decode(self.geometry, &bytes, number);
                if entry.fault(self.geometry).is_some() {
                    continue;
                }
                let place = table.saturating_add(number.saturating_mul(self.geometry.entry_len() as u64));
                let Some(host) = entry.host() else { continue };
                wrong = wrong.saturating_add(self.flag(entry.word, host, place, repair)?);
            }
        }
        Ok(wrong)
    }

    /// Compares the flag of an entry, which lies at `place`, with the count of the cluster that it names.
    fn flag(&mut self, entry: u64, host: u64, place: u64, repair: bool) -> Result<u64, DiskError> {
        let right = match self.count(self.geometry.cluster_of(host)) {
            0 => return Ok(0),
            1 => entry | COPIED,
            _ => entry & !COPIED,
        };
        if entry == right {
            return Ok(0);
        }
        self.note(format!("the entry at offset {place} is {entry:#x} and should be {right:#x}"));
        if repair {
            self.file.write_at(place, &right.to_be_bytes())?;
        }
        Ok(1)
    }
}
