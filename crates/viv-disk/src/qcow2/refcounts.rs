//! How often each cluster of the file is referred to, and which are free.
//!
//! A count that is too high is a leak; one that is too low loses data once the cluster is given out again. So counts in
//! memory go up before a reference is made, and down after its end is durable ([`super::meta`]); which is why a block of
//! counts may be written to the file at any time.

use std::collections::BTreeSet;
use std::ops::Range;

use super::geometry::Geometry;
use super::header::{Header, MAX_REFCOUNT_TABLE, field};
use crate::DiskError;
use crate::bytes::{bytes_of, index, table_of};
use crate::cache::Cache;
use crate::storage::Storage;

/// Bytes of refcount blocks in memory; as few as possible in tests, so that they do not stay there.
const CACHE: u64 = if cfg!(test) { 0 } else { 4 << 20 };
/// Clusters begin below this offset, which a compressed cluster's descriptor can still hold.
const END: u64 = 1 << 48;

/// The refcounts of an image.
#[derive(Debug)]
pub(super) struct Refcounts {
    geometry: Geometry,
    /// The refcount table: where the blocks are.
    table: Vec<u64>,
    table_offset: u64,
    /// Entries of the table that the file does not have.
    changed: BTreeSet<u64>,
    blocks: Cache,
    /// No cluster before this one is free.
    first_free: u64,
    /// Where the L1 table lies, which must not be given out.
    l1: Range<u64>,
    /// Clusters of former tables.
    left_behind: Vec<u64>,
}

impl Refcounts {
    /// Reads the table.
    pub(super) fn open(file: &dyn Storage, header: &Header) -> Result<Self, DiskError> {
        let geometry = header.geometry;
        let length = geometry.offset_of(header.refcount_clusters.into()).min(MAX_REFCOUNT_TABLE);
        let mut bytes = vec![0; index(length)];
        file.read_at(header.refcount_table, &mut bytes)?;
        Ok(Self {
            geometry,
            table: table_of(&bytes),
            table_offset: header.refcount_table,
            changed: BTreeSet::new(),
            blocks: Cache::new(CACHE, geometry.cluster_size()),
            first_free: 1,
            l1: header.l1_offset
                ..header.l1_offset.saturating_add(u64::from(header.l1_size).saturating_mul(8)),
            left_behind: Vec::new(),
        })
    }

    /// Says where the L1 table lies now.
    pub(super) fn set_l1(&mut self, offset: u64, length: u64) {
        self.l1 = offset..offset.saturating_add(length);
    }

    /// Whether the cluster at `offset` holds refcounts, as far as that is known.
    pub(super) fn overlaps(&self, offset: u64) -> bool {
        let end = self.table_offset.saturating_add((self.table.len() as u64).saturating_mul(8));
        self.blocks.contains(offset) || (self.table_offset..end).contains(&offset)
    }

    fn bad(file: &dyn Storage, reason: String) -> DiskError {
        DiskError::BadImage { path: file.path().to_owned(), reason }
    }

    /// The offset of a cluster's block, which is in memory after that; none if it does not exist.
    fn block(&mut self, file: &dyn Storage, block: u64) -> Result<Option<u64>, DiskError> {
        let offset = self.table.get(index(block)).copied().unwrap_or(0);
        if offset == 0 || self.blocks.contains(offset) {
            return Ok(Some(offset).filter(|offset| *offset != 0));
        }
        if self.geometry.within(offset) != 0 || offset >= END {
            return Err(Self::bad(file, format!("a refcount block cannot be at offset {offset}")));
        }
        let mut bytes = vec![0; self.geometry.cluster_len()];
        file.read_at(offset, &mut bytes)?;
        self.make_room(file)?;
        self.blocks.insert(offset, bytes);
        Ok(Some(offset))
    }

    fn make_room(&mut self, file: &dyn Storage) -> Result<(), DiskError> {
        if !self.blocks.make_room() {
            self.write_blocks(file)?;
            self.blocks.make_room();
        }
        Ok(())
    }

    /// A cluster's refcount.
    pub(super) fn get(&mut self, file: &dyn Storage, cluster: u64) -> Result<u64, DiskError> {
        let (block, at) = self.geometry.block_of(cluster);
        let Some(offset) = self.block(file, block)? else { return Ok(0) };
        Ok(self.geometry.refcount(self.blocks.get(offset).unwrap_or_default(), at))
    }

    fn set(&mut self, file: &dyn Storage, cluster: u64, value: u64) -> Result<(), DiskError> {
        let (block, at) = self.geometry.block_of(cluster);
        if let Some(offset) = self.block(file, block)?
            && let Some(bytes) = self.blocks.get_mut(offset)
        {
            self.geometry.set_refcount(bytes, at, value);
        }
        Ok(())
    }

    /// Takes one reference from a cluster; whether it is free after that.
    pub(super) fn release(&mut self, file: &dyn Storage, cluster: u64) -> Result<bool, DiskError> {
        let count = self.get(file, cluster)?;
        let Some(left) = count.checked_sub(1) else {
            return Err(Self::bad(file, format!("cluster {cluster} is in use and its refcount is 0")));
        };
        self.set(file, cluster, left)?;
        if left == 0 {
            self.first_free = self.first_free.min(cluster);
        }
        Ok(left == 0)
    }

    /// Whether a cluster that is in use can have one more reference.
    pub(super) fn can_share(&mut self, file: &dyn Storage, cluster: u64) -> Result<bool, DiskError> {
        let count = self.get(file, cluster)?;
        Ok(count > 0 && count < self.geometry.max_refcount())
    }

    /// Adds a reference to a cluster.
    pub(super) fn share(&mut self, file: &dyn Storage, cluster: u64) -> Result<(), DiskError> {
        let count = self.get(file, cluster)?;
        self.set(file, cluster, count.saturating_add(1))
    }

    /// A free cluster, which has one reference from then on. Where it lies may be in use all the same, if the image is
    /// damaged.
    pub(super) fn allocate(&mut self, file: &dyn Storage) -> Result<u64, DiskError> {
        self.allocate_run(file, 1)
    }

    /// `length` free clusters in a row; the first of them.
    pub(super) fn allocate_run(&mut self, file: &dyn Storage, length: u64) -> Result<u64, DiskError> {
        let (mut cluster, mut run) = (self.first_free, 0_u64);
        while run < length {
            let (block, at) = self.geometry.block_of(cluster);
            if self.geometry.offset_of(cluster) >= END {
                return Err(Self::bad(file, "it has grown as large as it can".into()));
            }
            let Some(offset) = self.block(file, block)? else {
                self.add_block(file, block)?;
                continue;
            };
            let bytes = self.blocks.get(offset).unwrap_or_default();
            for at in at..self.geometry.per_block() {
                run = if self.geometry.refcount(bytes, at) == 0 { run.saturating_add(1) } else { 0 };
                cluster = cluster.saturating_add(1);
                if run == length {
                    break;
                }
            }
        }
        let first = cluster.saturating_sub(length);
        for cluster in first..cluster {
            let offset = self.geometry.offset_of(cluster);
            if self.overlaps(offset) || self.l1.contains(&offset) || cluster == 0 {
                return Err(Self::bad(
                    file,
                    format!("the cluster at offset {offset} is in use and its refcount is 0"),
                ));
            }
            self.set(file, cluster, 1)?;
        }
        if length == 1 {
            self.first_free = cluster;
        }
        Ok(first)
    }

    /// Makes a block that does not exist, in the first cluster that it counts.
    fn add_block(&mut self, file: &dyn Storage, block: u64) -> Result<(), DiskError> {
        if block >= self.table.len() as u64 {
            return self.grow(file);
        }
        let offset = self.geometry.offset_of(self.geometry.per_block().saturating_mul(block));
        if self.overlaps(offset) || self.l1.contains(&offset) || block == 0 {
            return Err(Self::bad(
                file,
                format!("the cluster at offset {offset} is in use and has no refcount"),
            ));
        }
        let mut bytes = vec![0; self.geometry.cluster_len()];
        self.geometry.set_refcount(&mut bytes, 0, 1);
        self.make_room(file)?;
        self.blocks.insert_new(offset, bytes);
        if let Some(entry) = self.table.get_mut(index(block)) {
            *entry = offset;
        }
        self.changed.insert(block);
        Ok(())
    }

    /// Moves the table to where it has room for half as much again: behind all that it counts, with the blocks that count
    /// it. Until the header names it, the former one is whole.
    fn grow(&mut self, file: &dyn Storage) -> Result<(), DiskError> {
        let geometry = self.geometry;
        let entries = self.table.len() as u64;
        let first = entries.saturating_mul(geometry.per_block());
        let (mut blocks, mut clusters) = (0_u64, 0_u64);
        loop {
            let wanted = blocks.saturating_add(clusters).div_ceil(geometry.per_block()).max(1);
            if wanted == blocks {
                break;
            }
            blocks = wanted;
            let room = entries.saturating_add(blocks).saturating_add(entries / 2);
            clusters = geometry.clusters_for(room.saturating_mul(8));
        }
        let table_offset = geometry.offset_of(first.saturating_add(blocks));
        if geometry.offset_of(clusters) > MAX_REFCOUNT_TABLE || table_offset >= END {
            return Err(Self::bad(file, "it has grown as large as its refcounts allow".into()));
        }
        let used = blocks.saturating_add(clusters);
        let mut table = self.table.clone();
        for block in 0..blocks {
            let mut bytes = vec![0; geometry.cluster_len()];
            let before = block.saturating_mul(geometry.per_block());
            for at in 0..geometry.per_block().min(used.saturating_sub(before)) {
                geometry.set_refcount(&mut bytes, at, 1);
            }
            let offset = geometry.offset_of(first.saturating_add(block));
            self.make_room(file)?;
            self.blocks.insert_new(offset, bytes);
            table.push(offset);
        }
        table.resize(index(geometry.offset_of(clusters) / 8), 0);
        self.write_blocks(file)?;
        file.write_at(table_offset, &bytes_of(&table))?;
        file.sync()?;
        let mut place = table_offset.to_be_bytes().to_vec();
        place.extend((clusters as u32).to_be_bytes());
        file.write_at(field::REFCOUNT_TABLE, &place)?;
        file.sync()?;
        let former = geometry.cluster_of(self.table_offset);
        let former_clusters = geometry.clusters_for(entries.saturating_mul(8));
        self.left_behind.extend(former..former.saturating_add(former_clusters));
        self.table = table;
        self.table_offset = table_offset;
        self.changed.clear();
        Ok(())
    }

    /// The clusters of former tables, each of which has a reference too many.
    pub(super) fn take_left_behind(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.left_behind)
    }

    /// Whether there is something that the file does not have.
    pub(super) fn is_dirty(&self) -> bool {
        self.blocks.is_dirty() || !self.changed.is_empty() || !self.left_behind.is_empty()
    }

    /// Writes what the file does not have: new blocks are durable before the table names them.
    pub(super) fn write(&mut self, file: &dyn Storage) -> Result<(), DiskError> {
        self.write_blocks(file)?;
        if self.changed.is_empty() {
            return Ok(());
        }
        file.sync()?;
        for block in &self.changed {
            let entry = self.table.get(index(*block)).copied().unwrap_or(0);
            file.write_at(self.table_offset.saturating_add(block.saturating_mul(8)), &entry.to_be_bytes())?;
        }
        self.changed.clear();
        Ok(())
    }

    /// Writes the blocks alone.
    pub(super) fn write_blocks(&mut self, file: &dyn Storage) -> Result<(), DiskError> {
        for (offset, bytes) in self.blocks.dirty() {
            file.write_at(offset, bytes)?;
        }
        self.blocks.written();
        Ok(())
    }
}
