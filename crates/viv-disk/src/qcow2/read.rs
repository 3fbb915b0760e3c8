//! Reading.

use std::sync::{Arc, PoisonError, RwLockWriteGuard};

use super::Qcow2Disk;
use super::entry::{Entry, State};
use super::meta::{Meta, decode};
use crate::bytes::index;
use crate::{DiskError, length_of};

/// What a range of the disk is, all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// What the backing file has.
    Backing,
    /// Zeroes.
    Zeroes,
    /// What is in the file at this offset.
    File(u64),
    /// Part of a compressed cluster.
    Packed(Entry),
}

impl Qcow2Disk {
    /// Fills `data`, which lies within the disk.
    pub(super) fn read(&self, mut offset: u64, mut data: &mut [u8]) -> Result<(), DiskError> {
        let mut meta = self.meta();
        while !data.is_empty() {
            let Some((source, length)) = self.resolve(&meta, offset, length_of(data))? else {
                drop(meta);
                let mut alone = self.meta_mut();
                alone.load(&*self.file, offset)?;
                meta = RwLockWriteGuard::downgrade(alone);
                continue;
            };
            let Some((part, rest)) = data.split_at_mut_checked(index(length)) else { break };
            self.read_from(source, offset, part)?;
            offset = offset.saturating_add(length);
            data = rest;
        }
        Ok(())
    }

    /// What lies at `offset`, and how much of `length` bytes is of the same kind in a row; none if the table that says
    /// so has to be read first.
    pub(super) fn resolve(
        &self,
        meta: &Meta,
        offset: u64,
        length: u64,
    ) -> Result<Option<(Source, u64)>, DiskError> {
        let geometry = self.geometry;
        let cluster = geometry.cluster_size();
        let in_table =
            geometry.l2_entries().saturating_sub(geometry.l2_index(offset)).saturating_mul(cluster);
        let most = in_table.saturating_sub(geometry.within(offset)).min(length);
        let Some(slot) = meta.find(&*self.file, offset)? else { return Ok(None) };
        let Some(slot) = slot else { return Ok(Some((self.unallocated(), most))) };
        let table = meta.entries_from(slot);
        let mut have = 0_u64;
        let mut first = None;
        let mut at = offset;
        while have < most {
            let nth = geometry.cluster_of(at).saturating_sub(geometry.cluster_of(offset));
            let entry = decode(geometry, table, nth);
            let (source, piece) = self.source(entry, at)?;
            match first {
                None => first = Some(source),
                Some(Source::File(host)) if source == Source::File(host.saturating_add(have)) => {}
                Some(before) if before == source && matches!(source, Source::Zeroes | Source::Backing) => {}
                Some(_) => break,
            }
            have = have.saturating_add(piece);
            at = at.saturating_add(piece);
        }
        Ok(first.map(|source| (source, have.min(most))))
    }

    /// What lies at `offset`, within the disk, and how many bytes of that there are in a row.
    pub(super) fn locate(&self, offset: u64) -> Result<(Source, u64), DiskError> {
        let left = self.size.saturating_sub(offset);
        let mut meta = self.meta();
        loop {
            if let Some(found) = self.resolve(&meta, offset, left)? {
                return Ok(found);
            }
            drop(meta);
            let mut alone = self.meta_mut();
            alone.load(&*self.file, offset)?;
            meta = RwLockWriteGuard::downgrade(alone);
        }
    }

    fn unallocated(&self) -> Source {
        if self.backed { Source::Backing } else { Source::Zeroes }
    }

    /// What an entry says about a guest offset, and the bytes to the end of the unit.
    pub(super) fn source(&self, entry: Entry, offset: u64) -> Result<(Source, u64), DiskError> {
        let geometry = self.geometry;
        if let Some(fault) = entry.fault(geometry) {
            return Err(self.bad(format!("the L2 entry for offset {offset} is {:#x}: {fault}", entry.word)));
        }
        let within = geometry.within(offset);
        let unit = geometry.unit_size();
        let left = unit.saturating_sub(within & unit.wrapping_sub(1));
        Ok(match entry.state(geometry, geometry.unit_of(offset)) {
            State::Unallocated => (self.unallocated(), left),
            State::Zero => (Source::Zeroes, left),
            State::Data => (Source::File(entry.host().unwrap_or(0).saturating_add(within)), left),
            State::Compressed => (Source::Packed(entry), geometry.cluster_size().saturating_sub(within)),
        })
    }

    /// Fills `data` with what lies at `offset` by an entry, which covers all of it.
    pub(super) fn read_entry(
        &self,
        entry: Entry,
        mut offset: u64,
        mut data: &mut [u8],
    ) -> Result<(), DiskError> {
        while !data.is_empty() {
            let (source, left) = self.source(entry, offset)?;
            let length = left.min(length_of(data));
            let Some((part, rest)) = data.split_at_mut_checked(index(length)) else { break };
            self.read_from(source, offset, part)?;
            offset = offset.saturating_add(length);
            data = rest;
        }
        Ok(())
    }

    fn read_from(&self, source: Source, offset: u64, data: &mut [u8]) -> Result<(), DiskError> {
        match source {
            Source::Backing => self.read_backing(offset, data),
            Source::Zeroes => {
                data.fill(0);
                Ok(())
            }
            Source::File(host) => {
                let have = self.file.read_some(host, data)?;
                if have == 0 {
                    return Err(
                        self.bad(format!("the data of offset {offset} should be at {host}, behind its end"))
                    );
                }
                // The file may end within its last cluster.
                data.get_mut(have..).unwrap_or_default().fill(0);
                Ok(())
            }
            Source::Packed(entry) => {
                let cluster = self.unpack(entry)?;
                let within = index(self.geometry.within(offset));
                if let Some(part) = cluster.get(within..).and_then(|rest| rest.get(..data.len())) {
                    data.copy_from_slice(part);
                }
                Ok(())
            }
        }
    }

    /// What the backing file has; zeroes behind its end.
    pub(super) fn read_backing(&self, offset: u64, data: &mut [u8]) -> Result<(), DiskError> {
        let Some(backing) = &self.backing else {
            data.fill(0);
            return Ok(());
        };
        let there = index(backing.size().saturating_sub(offset)).min(data.len());
        let (part, rest) = data.split_at_mut_checked(there).unwrap_or_default();
        rest.fill(0);
        if part.is_empty() { Ok(()) } else { backing.read_at(offset, part) }
    }

    /// Forgets the compressed cluster that was read last.
    pub(super) fn forget_unpacked(&self) {
        *self.unpacked.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn unpack(&self, entry: Entry) -> Result<Arc<Vec<u8>>, DiskError> {
        let last = || self.unpacked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((word, cluster)) = &*last()
            && *word == entry.word
        {
            return Ok(Arc::clone(cluster));
        }
        let packed = entry.compressed(self.geometry);
        let packed = packed.ok_or_else(|| self.bad("an entry is not compressed".into()))?;
        let mut bytes = vec![0; index(packed.length)];
        let have = self.file.read_some(packed.offset, &mut bytes)?;
        let mut cluster = vec![0; self.geometry.cluster_len()];
        super::compress::unpack(self.compression, bytes.get(..have).unwrap_or_default(), &mut cluster)
            .map_err(|why| {
                self.bad(format!("its compressed cluster at {} is damaged: {why}", packed.offset))
            })?;
        let cluster = Arc::new(cluster);
        *last() = Some((entry.word, Arc::clone(&cluster)));
        Ok(cluster)
    }
}
