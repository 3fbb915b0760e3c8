//! What is dropped: translations of code that has changed, and the oldest when there is no room.
//!
//! All of it happens between runs of translated code. Nothing leads to a trace that was dropped: neither branches, nor
//! tables of branch targets, nor what is kept of other address spaces, which a new version makes void.
#![allow(unsafe_code, reason = "the CPU's tables are reached by pointer")]

use std::mem;

use super::Translator;
use super::cache::page_key;
use super::parts::{Record, Slot, TraceId, part_of_edge};
use crate::region::{JumpTarget, NOT_MAPPED};

impl Translator {
    /// Drops everything.
    pub fn clear(&mut self) {
        for part in 0..self.parts.len() {
            self.evict(part);
        }
    }

    /// Drops the traces whose bytes have changed.
    pub fn drop_outdated(&mut self) {
        let outdated: Vec<Slot> = (self.pages.iter().enumerate())
            .filter(|(_, page)| page.as_ref().is_some_and(|page| !page.source.is_current()))
            .map(|(slot, _)| slot as Slot)
            .collect();
        if outdated.is_empty() {
            return;
        }
        for slot in outdated {
            let Some(page) = &mut self.pages[slot as usize] else { continue };
            let traces = mem::take(&mut page.traces).into_ids().chain(mem::take(&mut page.visitors));
            for trace in traces {
                self.drop_trace(trace);
            }
            self.free_if_unused(slot);
        }
        self.forget_dropped();
    }

    /// Drops a trace, of which [`Translator::forget_dropped`] is to be told.
    pub(super) fn drop_trace(&mut self, trace: TraceId) {
        let Some(record) = self.parts.take_trace(trace) else { return };
        self.dropped.insert(self.parts.arena.address_of(record.entry));
        self.unlink_incoming(record.incoming);
        for edge in record.first_edge..record.first_edge + u32::from(record.edges) {
            if let Some(to) = self.parts.edge_mut(edge).to.take() {
                self.forget_incoming(to, edge);
            }
        }
        self.forget_in_pages(trace, &record);
    }

    /// Makes no indirect branch lead to what was dropped, and nothing that was found be taken for what there is.
    pub(super) fn forget_dropped(&mut self) {
        let dropped = mem::take(&mut self.dropped);
        self.forget_targets(|host| dropped.contains(&host));
    }

    /// Drops the traces of a part, and takes their memory back.
    pub(super) fn evict(&mut self, part: usize) {
        if self.parts.traces_of(part).is_empty() {
            return;
        }
        for trace in self.parts.traces_of(part) {
            let Some(record) = self.parts.take_trace(trace) else { continue };
            self.unlink_incoming(record.incoming);
            self.forget_in_pages(trace, &record);
        }
        // What is left leads to other parts. Those that lead to the same trace are taken off its list together.
        let mut reached = Vec::new();
        for edge in self.parts.edges_of(part) {
            reached.extend(self.parts.edge_mut(edge).to.take());
        }
        reached.sort_unstable();
        reached.dedup();
        for trace in reached {
            self.keep_incoming(trace, |edge| part_of_edge(edge) != part);
        }
        let code = self.parts.code_of(part);
        self.forget_targets(|host| code.contains(&host));
        self.parts.empty(part);
    }

    /// Drops what is oldest until there are slots for two more pages.
    pub(super) fn make_room_for_pages(&mut self) {
        while self.unused_slots() < 2
            && let Some(part) = self.parts.oldest()
        {
            self.make_room(part);
        }
    }

    /// Goes on in the next part, which is the oldest unless nothing is in it.
    pub fn go_on(&mut self) {
        let part = self.parts.advance();
        self.make_room(part);
    }

    /// Drops the oldest part of all translations.
    pub fn evict_oldest(&mut self) {
        if let Some(part) = self.parts.oldest() {
            self.make_room(part);
        }
    }

    fn make_room(&mut self, part: usize) {
        self.counts.evictions += u64::from(!self.parts.traces_of(part).is_empty());
        self.evict(part);
    }

    /// Takes a trace out of its pages.
    fn forget_in_pages(&mut self, trace: TraceId, record: &Record) {
        if let Some(page) = &mut self.pages[record.slot as usize] {
            page.traces.remove(record.offset, trace);
        }
        if let Some(slot) = record.second
            && let Some(page) = &mut self.pages[slot as usize]
        {
            page.visitors.retain(|&other| other != trace);
        }
        // One that ran from page to page is known to both.
        for slot in [Some(record.slot), record.second].into_iter().flatten() {
            self.free_if_unused(slot);
        }
    }

    /// Takes back the slot of a page that no trace has to do with.
    pub(super) fn free_if_unused(&mut self, slot: Slot) {
        let is_unused = |page: &mut super::cache::Page| page.traces.is_empty() && page.visitors.is_empty();
        let Some(page) = self.pages[slot as usize].take_if(is_unused) else { return };
        self.by_page.remove(&page_key(page.source.phys, page.mode));
        // SAFETY: the tables live as long as the translator, and only this thread uses them.
        unsafe { (*self.tables).pages[slot as usize] = NOT_MAPPED };
        self.free_slots.push(slot);
    }

    /// Makes no indirect branch lead to code that is gone, and takes pages that are gone off the list of those that are
    /// mapped.
    fn forget_targets(&mut self, is_gone: impl Fn(u64) -> bool) {
        self.version += 1;
        let pages = &self.pages;
        self.mapped.retain(|slot| pages[slot as usize].is_some());
        // SAFETY: as for `free_if_unused`.
        let tables = unsafe { &mut *self.tables };
        for (table, index) in self.targets.iter() {
            let target = &mut tables.targets[usize::from(table)][usize::from(index)];
            if is_gone(target.host) {
                *target = JumpTarget::none(usize::from(index));
            }
        }
    }
}
