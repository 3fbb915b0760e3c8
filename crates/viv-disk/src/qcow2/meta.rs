//! The tables of an open image, and the order in which their changes reach the file.
//!
//! Data goes to the file at once; tables are changed in memory. [`Meta::commit`] brings them to the file so that the
//! power may fail at any moment: what is durable never refers to what is not, and nothing is given out again while
//! something durable refers to it.
//!
//! 1. Refcount blocks, with the counts of new clusters. Where a block is new, it is made durable before the refcount
//!    table names it.
//! 2. *Sync.* New clusters are counted, and hold their data.
//! 3. L2 tables.
//! 4. Where an L2 table is new: *sync*, and the L1 entries that name it.
//! 5. *Sync.* The guest's last flush is done with this. What was replaced or discarded is no longer referred to.
//! 6. The counts of those clusters go down, in memory; only from here on may they be given out. The blocks are written;
//!    should the power fail before they are durable, clusters have leaked, and nothing else.
//!
//! Between commits an image in the file is that of the last commit, but for data that was written in its place.

use std::collections::BTreeSet;

use super::entry::{COPIED, Entry, OFFSET};
use super::geometry::Geometry;
use super::header::Header;
use super::refcounts::Refcounts;
use crate::DiskError;
use crate::bytes::{be64, bytes_of, index, put, table_of};
use crate::cache::Cache;
use crate::storage::Storage;

/// Bytes of L2 tables in memory; as few as possible in tests, so that they do not stay there.
const CACHE: u64 = if cfg!(test) { 0 } else { 16 << 20 };
/// Bytes of clusters to which references have ended and that are still counted, at the most: by so much a file can grow
/// that is not given out again meanwhile.
const MAX_ENDED: u64 = 256 << 20;
/// L1 entries that are written together: those of a sector.
const L1_PIECE: u64 = 64;

/// Where an L2 entry lies: its table's offset in the file, and which one it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    table: u64,
    index: u64,
}

impl Slot {
    /// The slot of the `n`th cluster behind this one, in the same table.
    pub(super) fn plus(self, n: u64) -> Self {
        Self { index: self.index.saturating_add(n), ..self }
    }
}

/// The tables of an open image.
#[derive(Debug)]
pub(super) struct Meta {
    pub(super) geometry: Geometry,
    l1: Vec<u64>,
    l1_offset: u64,
    /// Pieces of the L1 table that the file does not have.
    l1_changed: BTreeSet<u64>,
    l2: Cache,
    refcounts: Refcounts,
    /// Clusters to which a reference has ended that the file may still have.
    ended: Vec<u64>,
    /// A new cluster from here on was never written: it reads as zeroes.
    pub(super) file_end: u64,
    /// Where compressed data ends that was written last.
    packed_end: u64,
    /// Whether nothing may be changed any more.
    failed: bool,
}

impl Meta {
    /// Reads the tables that are in memory all the time.
    pub(super) fn open(file: &dyn Storage, header: &Header) -> Result<Self, DiskError> {
        let geometry = header.geometry;
        let mut bytes = vec![0; index(u64::from(header.l1_size).saturating_mul(8))];
        file.read_at(header.l1_offset, &mut bytes)?;
        Ok(Self {
            geometry,
            l1: table_of(&bytes),
            l1_offset: header.l1_offset,
            l1_changed: BTreeSet::new(),
            l2: Cache::new(CACHE, geometry.cluster_size()),
            refcounts: Refcounts::open(file, header)?,
            ended: Vec::new(),
            file_end: file.length()?,
            packed_end: 0,
            failed: false,
        })
    }

    fn bad(file: &dyn Storage, reason: String) -> DiskError {
        DiskError::BadImage { path: file.path().to_owned(), reason }
    }

    /// Where the L2 table for a guest offset lies; none if there is no such table.
    fn table_for(&self, file: &dyn Storage, offset: u64) -> Result<Option<u64>, DiskError> {
        let entry = self.l1.get(index(self.geometry.l1_index(offset))).copied().unwrap_or(0);
        let table = entry & OFFSET;
        if self.geometry.within(table) != 0 || entry & !(OFFSET | COPIED) != 0 {
            return Err(Self::bad(
                file,
                format!("the L1 entry for offset {offset} is {entry:#x}, which cannot be"),
            ));
        }
        Ok((table != 0).then_some(table))
    }

    /// The L2 entry for a guest offset: `Some(None)` where there is no table, none if the table is not in memory.
    pub(super) fn find(&self, file: &dyn Storage, offset: u64) -> Result<Option<Option<Slot>>, DiskError> {
        let Some(table) = self.table_for(file, offset)? else { return Ok(Some(None)) };
        if !self.l2.contains(table) {
            return Ok(None);
        }
        Ok(Some(Some(Slot { table, index: self.geometry.l2_index(offset) })))
    }

    /// The L2 table's bytes from a slot on.
    pub(super) fn entries_from(&self, slot: Slot) -> &[u8] {
        let at = index(slot.index).saturating_mul(self.geometry.entry_len());
        self.l2.get(slot.table).and_then(|table| table.get(at..)).unwrap_or_default()
    }

    /// Reads an entry at a slot, or nothing where there is none.
    pub(super) fn entry(&self, slot: Option<Slot>) -> Entry {
        slot.map_or(Entry::default(), |slot| decode(self.geometry, self.entries_from(slot), 0))
    }

    /// Reads the L2 table for a guest offset, if there is one that is not in memory.
    pub(super) fn load(&mut self, file: &dyn Storage, offset: u64) -> Result<(), DiskError> {
        let Some(table) = self.table_for(file, offset)? else { return Ok(()) };
        if self.l2.contains(table) {
            return Ok(());
        }
        if self.refcounts.overlaps(table) {
            return Err(Self::bad(file, format!("an L2 table and refcounts overlap at offset {table}")));
        }
        let mut bytes = vec![0; self.geometry.cluster_len()];
        file.read_at(table, &mut bytes)?;
        self.make_room(file)?;
        self.l2.insert(table, bytes);
        Ok(())
    }

    fn make_room(&mut self, file: &dyn Storage) -> Result<(), DiskError> {
        if !self.l2.make_room() {
            self.commit(file)?;
            self.l2.make_room();
        }
        Ok(())
    }

    /// The slot of an entry that is going to be changed. Its table is in memory, and no snapshot's.
    pub(super) fn own_slot(&mut self, file: &dyn Storage, offset: u64) -> Result<Slot, DiskError> {
        self.load(file, offset)?;
        let at = self.geometry.l1_index(offset);
        let entry = self.l1.get(index(at)).copied().unwrap_or(0);
        let former = entry & OFFSET;
        let at_index = self.geometry.l2_index(offset);
        let slot = |table| Slot { table, index: at_index };
        if former != 0 && entry & COPIED != 0 {
            return Ok(slot(former));
        }
        let mut bytes = match self.l2.get(former) {
            Some(table) if former != 0 => table.to_vec(),
            _ => vec![0; self.geometry.cluster_len()],
        };
        if former != 0 {
            // Nothing that a snapshot refers to as well may be changed in its place, whatever the entries say.
            for entry in bytes.chunks_exact_mut(self.geometry.entry_len()) {
                let word = be64(entry, 0) & !COPIED;
                put(entry, 0, &word.to_be_bytes());
            }
        }
        let table = self.allocate(file)?;
        self.make_room(file)?;
        self.l2.insert_new(table, bytes);
        if let Some(entry) = self.l1.get_mut(index(at)) {
            *entry = table | COPIED;
        }
        self.l1_changed.insert(at / L1_PIECE);
        if former != 0 {
            self.end_reference(former);
        }
        Ok(slot(table))
    }

    /// Changes an entry.
    pub(super) fn set(&mut self, slot: Slot, entry: Entry) {
        let at = index(slot.index).saturating_mul(self.geometry.entry_len());
        let extended = self.geometry.extended;
        if let Some(table) = self.l2.get_mut(slot.table) {
            put(table, at, &entry.word.to_be_bytes());
            if extended {
                put(table, at.saturating_add(8), &entry.bitmap.to_be_bytes());
            }
        }
    }

    /// A new cluster's offset in the file.
    pub(super) fn allocate(&mut self, file: &dyn Storage) -> Result<u64, DiskError> {
        let cluster = self.refcounts.allocate(file)?;
        let offset = self.geometry.offset_of(cluster);
        if self.l2.contains(offset) {
            let reason = format!("the L2 table at offset {offset} has refcount 0");
            return Err(Self::bad(file, reason));
        }
        Ok(offset)
    }

    /// Where `length` bytes of compressed data go: behind what was packed last, if that is possible.
    pub(super) fn allocate_packed(&mut self, file: &dyn Storage, length: u64) -> Result<u64, DiskError> {
        let size = self.geometry.cluster_size();
        let within = self.geometry.within(self.packed_end);
        let behind = self.packed_end.saturating_sub(within).saturating_add(size);
        let room =
            within != 0 && self.refcounts.can_share(file, self.geometry.cluster_of(self.packed_end))?;
        let mut place = self.packed_end;
        if !room || length > size.saturating_sub(within) {
            let next = self.allocate(file)?;
            if !room || next != behind {
                place = next;
            }
        }
        if place == self.packed_end {
            self.refcounts.share(file, self.geometry.cluster_of(place))?;
        }
        self.packed_end = place.saturating_add(length);
        Ok(place)
    }

    /// Whether the cluster at `offset` holds tables: data there would destroy them.
    pub(super) fn is_table(&self, offset: u64) -> bool {
        let l1 = (self.l1.len() as u64).saturating_mul(8);
        offset < self.geometry.cluster_size()
            || (self.l1_offset..self.l1_offset.saturating_add(l1)).contains(&offset)
            || self.refcounts.overlaps(offset)
            || self.l2.contains(offset)
    }

    /// Says that the reference to the cluster at `offset` has ended.
    pub(super) fn end_reference(&mut self, offset: u64) {
        self.ended.push(self.geometry.cluster_of(offset));
    }

    /// Says that an entry has been replaced: what it referred to and `keep` does not.
    pub(super) fn end_references_of(&mut self, entry: Entry, keep: Option<u64>) {
        if let Some(packed) = entry.compressed(self.geometry) {
            let last = packed.offset.saturating_add(packed.length).saturating_sub(1);
            let clusters = self.geometry.cluster_of(packed.offset)..=self.geometry.cluster_of(last);
            self.ended.extend(clusters);
        } else if let Some(host) = entry.host()
            && keep != Some(host)
        {
            self.end_reference(host);
        }
    }

    /// Makes sure that what a call adds to memory stays bounded, and that changes are allowed.
    pub(super) fn begin_change(&mut self, file: &dyn Storage) -> Result<(), DiskError> {
        if self.failed {
            return Err(Self::bad(file, "it could not be written before; open it again".into()));
        }
        let ended = self.geometry.offset_of(self.ended.len() as u64);
        if ended > MAX_ENDED { self.commit(file) } else { Ok(()) }
    }

    /// Moves the L1 table to where it has `entries`; where that is. The header has to name it before the next commit.
    pub(super) fn move_l1(&mut self, file: &dyn Storage, entries: u64) -> Result<u64, DiskError> {
        self.commit(file)?;
        let former = (self.l1_offset, (self.l1.len() as u64).saturating_mul(8));
        let clusters = self.geometry.clusters_for(entries.saturating_mul(8));
        let first = self.refcounts.allocate_run(file, clusters)?;
        self.l1.resize(index(entries), 0);
        let mut bytes = bytes_of(&self.l1);
        bytes.resize(index(self.geometry.offset_of(clusters)), 0);
        self.l1_offset = self.geometry.offset_of(first);
        file.write_at(self.l1_offset, &bytes)?;
        self.refcounts.write(file)?;
        self.refcounts.set_l1(self.l1_offset, bytes.len() as u64);
        file.sync()?;
        let first = self.geometry.cluster_of(former.0);
        self.ended.extend(first..first.saturating_add(self.geometry.clusters_for(former.1)));
        Ok(self.l1_offset)
    }

    /// Whether the file has everything but what was not synced.
    pub(super) fn is_clean(&self) -> bool {
        !(self.failed
            || self.l2.is_dirty()
            || self.refcounts.is_dirty()
            || !self.l1_changed.is_empty()
            || !self.ended.is_empty())
    }

    /// Says that a sync has failed: nothing is promised from then on.
    pub(super) fn give_up(&mut self) {
        self.failed = true;
    }

    /// Makes all changes durable, in an order by which no cut does harm.
    pub(super) fn commit(&mut self, file: &dyn Storage) -> Result<(), DiskError> {
        if self.failed {
            return Err(Self::bad(file, "it could not be written before; open it again".into()));
        }
        let done = self.commit_in_order(file);
        // What was not written, for want of space, is written by the next commit. But what a sync that failed has left in
        // the file is not known, nor what a later one would make durable.
        self.failed = !matches!(done, Ok(()) | Err(DiskError::Io { action: "write", .. }));
        done
    }

    fn commit_in_order(&mut self, file: &dyn Storage) -> Result<(), DiskError> {
        self.refcounts.write(file)?;
        file.sync()?;
        if self.l2.is_dirty() {
            for (offset, bytes) in self.l2.dirty() {
                file.write_at(offset, bytes)?;
            }
            self.l2.written();
            if !self.l1_changed.is_empty() {
                file.sync()?;
            }
        }
        for piece in &self.l1_changed {
            let first = piece.saturating_mul(L1_PIECE);
            let entries = self.l1.iter().skip(index(first)).take(index(L1_PIECE));
            let bytes: Vec<u8> = entries.flat_map(|entry| entry.to_be_bytes()).collect();
            file.write_at(self.l1_offset.saturating_add(first.saturating_mul(8)), &bytes)?;
        }
        self.l1_changed.clear();
        file.sync()?;
        self.give_back(file)
    }

    /// Counts the references that have ended, and gives clusters without any back to the host.
    fn give_back(&mut self, file: &dyn Storage) -> Result<(), DiskError> {
        let mut ended = std::mem::take(&mut self.ended);
        ended.extend(self.refcounts.take_left_behind());
        ended.sort_unstable();
        let mut free: Option<(u64, u64)> = None;
        for cluster in ended {
            if !self.refcounts.release(file, cluster)? {
                continue;
            }
            let offset = self.geometry.offset_of(cluster);
            self.l2.remove(offset);
            if self.geometry.cluster_of(self.packed_end) == cluster {
                self.packed_end = 0;
            }
            self.file_end = self.file_end.max(offset.saturating_add(self.geometry.cluster_size()));
            match &mut free {
                Some((_, end)) if *end == cluster => *end = end.saturating_add(1),
                _ => {
                    self.discard(file, free);
                    free = Some((cluster, cluster.saturating_add(1)));
                }
            }
        }
        self.discard(file, free);
        self.refcounts.write_blocks(file)
    }

    /// Gives clusters back to the host, which is no loss if it does not take them: they are free all the same.
    fn discard(&self, file: &dyn Storage, clusters: Option<(u64, u64)>) {
        let Some((first, end)) = clusters else { return };
        let begin = self.geometry.offset_of(first);
        if let Err(error) = file.discard(begin, self.geometry.offset_of(end).saturating_sub(begin)) {
            tracing::debug!(error = &error as &dyn std::error::Error, "space is not given back");
        }
    }
}

/// The `at`th entry of part of an L2 table.
pub(super) fn decode(geometry: Geometry, table: &[u8], at: u64) -> Entry {
    let at = index(at).saturating_mul(geometry.entry_len());
    let bitmap = if geometry.extended { be64(table, at.saturating_add(8)) } else { 0 };
    Entry { word: be64(table, at), bitmap }
}
