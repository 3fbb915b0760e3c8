//! Writing, discarding and zeroing.

use super::Qcow2Disk;
use super::entry::{Entry, State};
use super::meta::{Meta, Slot, decode};
use super::read::Source;
use crate::bytes::index;
use crate::{DiskError, length_of};

/// New clusters that are written together at the most.
const MAX_RUN: u64 = 256;

/// How a range comes to read as zeroes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Zeroing {
    /// Only where that gives space back.
    Discard,
    /// And gives its space back.
    Unmap,
    /// And keeps its space.
    Keep,
}

impl Qcow2Disk {
    /// Puts `data` at `offset`, within the disk.
    pub(super) fn write(&self, mut offset: u64, data: &[u8]) -> Result<(), DiskError> {
        let done = self.write_in_place(&self.meta(), offset, data)?;
        let mut data = data.get(done..).unwrap_or_default();
        offset = offset.saturating_add(done as u64);
        if data.is_empty() {
            return Ok(());
        }
        let meta = &mut *self.meta_mut();
        while !data.is_empty() {
            meta.begin_change(&*self.file)?;
            let mut length = self.write_new_clusters(meta, offset, data)?;
            if length == 0 {
                length = self.piece(offset, length_of(data));
                self.write_piece(meta, offset, data.get(..index(length)).unwrap_or_default())?;
            }
            offset = offset.saturating_add(length);
            data = data.get(index(length)..).unwrap_or_default();
        }
        Ok(())
    }

    /// Writes as much from the beginning of `data` as goes to where the disk's data is already; how much that is.
    fn write_in_place(&self, meta: &Meta, offset: u64, data: &[u8]) -> Result<usize, DiskError> {
        let geometry = self.geometry;
        let mut done = 0_usize;
        while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
            let at = offset.saturating_add(done as u64);
            let Some(Some(slot)) = meta.find(&*self.file, at)? else { break };
            let entries = geometry.l2_entries().saturating_sub(geometry.l2_index(at));
            let table = meta.entries_from(slot);
            let (mut begin, mut run) = (0, 0_u64);
            for nth in 0..entries {
                let from = at.saturating_add(run);
                let length = self.piece(from, length_of(rest).saturating_sub(run));
                let entry = decode(geometry, table, nth);
                let Some(host) = entry.own_host() else { break };
                if length == 0 || !self.is_data(entry, from, length) || meta.is_table(host) {
                    break;
                }
                let host = host.saturating_add(geometry.within(from));
                if run == 0 {
                    begin = host;
                } else if host != begin.saturating_add(run) {
                    break;
                }
                run = run.saturating_add(length);
            }
            let part = rest.get(..index(run)).unwrap_or_default();
            if part.is_empty() {
                break;
            }
            self.file.write_at(begin, part)?;
            done = done.saturating_add(part.len());
        }
        Ok(done)
    }

    /// Whether all of a range in one cluster is data, by a valid entry.
    fn is_data(&self, entry: Entry, offset: u64, length: u64) -> bool {
        let last = offset.saturating_add(length.saturating_sub(1));
        let mut units = self.geometry.unit_of(offset)..=self.geometry.unit_of(last);
        entry.fault(self.geometry).is_none()
            && units.all(|unit| entry.state(self.geometry, unit) == State::Data)
    }

    /// Writes the whole clusters at the beginning of `data` that need new clusters in the file; how many bytes that were.
    fn write_new_clusters(&self, meta: &mut Meta, offset: u64, data: &[u8]) -> Result<u64, DiskError> {
        let geometry = self.geometry;
        let cluster = geometry.cluster_size();
        let in_table = geometry.l2_entries().saturating_sub(geometry.l2_index(offset));
        let wanted = geometry.cluster_of(length_of(data)).min(in_table).min(MAX_RUN);
        if geometry.within(offset) != 0 || wanted == 0 {
            return Ok(0);
        }
        let slot = meta.own_slot(&*self.file, offset)?;
        let mut hosts = Vec::new();
        for nth in 0..wanted {
            let entry = meta.entry(Some(slot.plus(nth)));
            self.source(entry, offset.saturating_add(geometry.offset_of(nth)))?;
            if entry.own_host().is_some() {
                break;
            }
            match meta.allocate(&*self.file) {
                Ok(host) => hosts.push(host),
                Err(error) => {
                    hosts.iter().for_each(|host| meta.end_reference(*host));
                    return Err(error);
                }
            }
        }
        if let Err(error) = self.write_runs(&hosts, data) {
            hosts.iter().for_each(|host| meta.end_reference(*host));
            return Err(error);
        }
        for (nth, host) in (0..).zip(&hosts) {
            let slot = slot.plus(nth);
            let former = meta.entry(Some(slot));
            meta.set(slot, Entry::at(*host).with_data(geometry, 0, 31));
            meta.end_references_of(former, None);
            meta.file_end = meta.file_end.max(host.saturating_add(cluster));
        }
        Ok(geometry.offset_of(hosts.len() as u64))
    }

    /// Writes a cluster of `data` to each of `hosts`, those in a row at once.
    fn write_runs(&self, hosts: &[u64], mut data: &[u8]) -> Result<(), DiskError> {
        let cluster = self.geometry.cluster_size();
        for run in hosts.chunk_by(|one, next| one.saturating_add(cluster) == *next) {
            let length = index(self.geometry.offset_of(run.len() as u64));
            let (Some(begin), Some((part, rest))) = (run.first(), data.split_at_checked(length)) else {
                break;
            };
            self.file.write_at(*begin, part)?;
            data = rest;
        }
        Ok(())
    }

    /// Writes to one cluster, whatever its state is.
    fn write_piece(&self, meta: &mut Meta, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        let slot = meta.own_slot(&*self.file, offset)?;
        let former = meta.entry(Some(slot));
        self.source(former, offset)?;
        let within = self.geometry.within(offset);
        let Some(host) = former.own_host() else { return self.write_moved(meta, slot, offset, data) };
        if meta.is_table(host) {
            return Err(self.bad(format!("the data of offset {offset} and tables overlap at offset {host}")));
        }
        if self.is_data(former, offset, length_of(data)) {
            return self.file.write_at(host.saturating_add(within), data);
        }
        let last = offset.saturating_add(length_of(data)).saturating_sub(1);
        let (first, last) = (self.geometry.unit_of(offset), self.geometry.unit_of(last));
        self.write_filled(former, (first, last), host, offset, data)?;
        meta.set(slot, former.with_data(self.geometry, first, last));
        Ok(())
    }

    /// Writes to a cluster that needs a new one in the file, where the rest of its data goes too.
    fn write_moved(&self, meta: &mut Meta, slot: Slot, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        let geometry = self.geometry;
        let former = meta.entry(Some(slot));
        let last = offset.saturating_add(length_of(data)).saturating_sub(1);
        let (mut first, mut last) = (geometry.unit_of(offset), geometry.unit_of(last));
        for unit in 0..if geometry.extended { 32 } else { 1 } {
            if matches!(former.state(geometry, unit), State::Data | State::Compressed) {
                (first, last) = (first.min(unit), last.max(unit));
            }
        }
        let host = meta.allocate(&*self.file)?;
        let end = host.saturating_add(geometry.cluster_size());
        let blank = host >= meta.file_end && self.is_zero(former, offset, first, last)?;
        let written = if blank {
            self.write_blank(host, offset, data)
        } else {
            self.write_filled(former, (first, last), host, offset, data)
        };
        if let Err(error) = written {
            meta.end_reference(host);
            return Err(error);
        }
        meta.file_end = meta.file_end.max(end);
        let mut entry = Entry::at(host);
        if former.compressed(geometry).is_none() {
            entry.bitmap = former.bitmap;
        }
        meta.set(slot, entry.with_data(geometry, first, last));
        meta.end_references_of(former, None);
        Ok(())
    }

    /// Puts a whole cluster, or what the disk has of its last one, at `offset`, compressed if that makes it smaller.
    ///
    /// # Errors
    /// As for [`crate::Disk::write_at`].
    pub fn write_compressed(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.check_change(offset, length_of(data))?;
        let mut cluster = data.to_vec();
        cluster.resize(self.geometry.cluster_len(), 0);
        let packed = super::compress::pack(self.compression, &cluster);
        let Some(packed) = packed.filter(|_| self.is_whole(offset, length_of(data))) else {
            return self.write(offset, data);
        };
        let meta = &mut *self.meta_mut();
        meta.begin_change(&*self.file)?;
        let slot = meta.own_slot(&*self.file, offset)?;
        let former = meta.entry(Some(slot));
        self.source(former, offset)?;
        let place = meta.allocate_packed(&*self.file, length_of(&packed))?;
        let entry = Entry::packed(self.geometry, place, length_of(&packed));
        if let Err(error) = self.file.write_at(place, &packed) {
            meta.end_references_of(entry, None);
            return Err(error);
        }
        meta.file_end = meta.file_end.max(place.saturating_add(length_of(&packed)));
        // Another cluster may have been there.
        self.forget_unpacked();
        meta.set(slot, entry);
        meta.end_references_of(former, None);
        Ok(())
    }

    /// Whether units of the cluster at `offset` read as zeroes.
    fn is_zero(&self, entry: Entry, offset: u64, first: u32, last: u32) -> Result<bool, DiskError> {
        let start = offset.saturating_sub(self.geometry.within(offset));
        for unit in first..=last {
            let at = start.saturating_add(self.geometry.unit_size().saturating_mul(unit.into()));
            if self.source(entry, at)?.0 != Source::Zeroes {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes `data` into a cluster where the file has never held anything.
    fn write_blank(&self, host: u64, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.file.write_at(host.saturating_add(self.geometry.within(offset)), data)?;
        let end = host.saturating_add(self.geometry.cluster_size());
        if self.file.length()? < end { self.file.set_length(end) } else { Ok(()) }
    }

    /// Writes whole units to the cluster at `host`: `data`, and around it what there was by the entry `former`.
    fn write_filled(
        &self,
        former: Entry,
        (first, last): (u32, u32),
        host: u64,
        offset: u64,
        data: &[u8],
    ) -> Result<(), DiskError> {
        let unit = self.geometry.unit_size();
        let start = offset.saturating_sub(self.geometry.within(offset));
        let from = unit.saturating_mul(first.into());
        let to = unit.saturating_mul(u64::from(last).saturating_add(1));
        let mut bytes = vec![0; index(to.saturating_sub(from))];
        let before = index(self.geometry.within(offset).saturating_sub(from));
        let begin = start.saturating_add(from);
        if let Some((head, rest)) = bytes.split_at_mut_checked(before)
            && let Some((middle, tail)) = rest.split_at_mut_checked(data.len())
        {
            self.read_entry(former, begin, head)?;
            middle.copy_from_slice(data);
            self.read_entry(former, offset.saturating_add(length_of(data)), tail)?;
        }
        self.file.write_at(host.saturating_add(from), &bytes)
    }

    /// Makes a range within the disk read as zeroes.
    pub(super) fn zero(&self, mut offset: u64, mut length: u64, how: Zeroing) -> Result<(), DiskError> {
        let geometry = self.geometry;
        while length > 0 {
            let meta = &mut *self.meta_mut();
            // Others may go on after each table.
            let in_table = geometry.l2_entries().saturating_sub(geometry.l2_index(offset));
            let span = geometry.offset_of(in_table).saturating_sub(geometry.within(offset)).min(length);
            meta.load(&*self.file, offset)?;
            let there = meta.find(&*self.file, offset)?.flatten().is_some();
            if there || self.backed {
                self.zero_in_table(meta, offset, span, how)?;
            }
            offset = offset.saturating_add(span);
            length = length.saturating_sub(span);
        }
        Ok(())
    }

    fn zero_in_table(
        &self,
        meta: &mut Meta,
        mut offset: u64,
        mut length: u64,
        how: Zeroing,
    ) -> Result<(), DiskError> {
        while length > 0 {
            meta.begin_change(&*self.file)?;
            meta.load(&*self.file, offset)?;
            let piece = self.piece(offset, length);
            let slot = meta.find(&*self.file, offset)?.flatten();
            let former = meta.entry(slot);
            let last = offset.saturating_add(piece).saturating_sub(1);
            let is_zero =
                self.is_zero(former, offset, self.geometry.unit_of(offset), self.geometry.unit_of(last))?;
            if self.is_whole(offset, piece) {
                if !is_zero || former.host().is_some() {
                    self.zero_cluster(meta, offset, piece, how, former)?;
                }
            } else if !is_zero && how != Zeroing::Discard {
                self.write_piece(meta, offset, &vec![0; index(piece)])?;
            }
            offset = offset.saturating_add(piece);
            length = length.saturating_sub(piece);
        }
        Ok(())
    }

    /// Makes all of a cluster read as zeroes, `length` bytes of which are the disk's.
    fn zero_cluster(
        &self,
        meta: &mut Meta,
        offset: u64,
        length: u64,
        how: Zeroing,
        former: Entry,
    ) -> Result<(), DiskError> {
        let geometry = self.geometry;
        let kept = former.own_host().filter(|_| how == Zeroing::Keep);
        let entry = match kept {
            _ if geometry.version < 3 && (kept.is_some() || self.backed) => {
                // Version 2 has no entry for zeroes.
                return match how {
                    Zeroing::Discard => Ok(()),
                    Zeroing::Unmap | Zeroing::Keep => self.write_piece(meta, offset, &vec![0; index(length)]),
                };
            }
            Some(host) => Entry::zero(geometry, Some(host)),
            None if !self.backed => Entry::default(),
            None => Entry::zero(geometry, None),
        };
        if entry != former {
            let slot = meta.own_slot(&*self.file, offset)?;
            meta.set(slot, entry);
            meta.end_references_of(former, kept);
        }
        Ok(())
    }
}
