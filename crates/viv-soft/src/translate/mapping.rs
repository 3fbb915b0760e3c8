//! Where pages of translated code and branch targets are, as the tables of the CPU have it.
#![allow(unsafe_code, reason = "the CPU's tables are reached by pointer")]

use std::mem;

use viv_arch::paging;

use super::frame::target_places;
use super::parts::{Record, Slot, TraceId};
use super::{Mode, Translator};
use crate::region::{JumpTarget, NOT_MAPPED};

/// The most address spaces of which is kept where pages are mapped.
const MAX_KEPT: usize = 12;

/// Where pages are mapped in an address space that is not in use.
#[derive(Default)]
pub struct Kept {
    /// The TLB's generation that this holds for, and the translator's version.
    generation: u64,
    version: u64,
    pages: Vec<(Slot, u64)>,
    targets: Vec<(u8, u16, JumpTarget)>,
}

impl Kept {
    fn clear(&mut self) {
        self.pages.clear();
        self.targets.clear();
    }
}

impl Translator {
    /// Whether the trace runs into the next page.
    pub fn crosses(&self, id: TraceId) -> bool {
        self.parts.trace(id).is_some_and(|record| record.second.is_some())
    }

    /// Says that the page that the trace runs into is mapped at `linear`'s page.
    pub fn map_second(&mut self, id: TraceId, linear: u64, global: bool) {
        if let Some(&Record { second: Some(slot), .. }) = self.parts.trace(id) {
            self.map_page(slot, linear, global);
        }
    }

    fn map_page(&mut self, slot: Slot, linear: u64, global: bool) {
        // SAFETY: the tables live as long as the translator, and only this thread uses them.
        let address = unsafe { &mut (*self.tables).pages[slot as usize] };
        let mapped = (linear & !paging::PAGE_OFFSET).wrapping_neg();
        if *address == mapped {
            return;
        }
        let Some(page) = &mut self.pages[slot as usize] else { return };
        *address = mapped;
        self.mapped.add(slot, global, &mut page.marks);
    }

    /// Says that the trace's page is mapped at `linear`'s page, and that branches to `linear` come to the trace, which
    /// is for this mode.
    pub fn map(&mut self, id: TraceId, linear: u64, global: bool, mode: Mode) {
        let Some(record) = self.parts.trace(id) else { return };
        let (slot, start) = (record.slot, self.parts.arena.address_of(record.entry));
        self.map_page(slot, linear, global);
        // SAFETY: as for `map_page`.
        let tables = unsafe { &mut *self.tables };
        let (table, key) = (mode.target_table(), mode.target_key(linear));
        let places = target_places(key);
        let targets = places.map(|place| tables.targets[table][place]);
        let known = targets.iter().position(|target| target.linear == key);
        let way = known.or_else(|| targets.iter().position(|target| target.host == 0)).unwrap_or_else(|| {
            self.replaced = 1 - self.replaced;
            self.replaced
        });
        let index = places[way];
        self.targets.add((table as u8, index as u16), global, &mut self.target_marks[table][index]);
        tables.targets[table][index] = JumpTarget::new(key, start);
    }

    /// Forgets where pages are mapped.
    pub fn unmap_all(&mut self) {
        self.kept.clear();
        self.unmap(true, &mut Kept::default());
    }

    /// Keeps where the pages of generation `from` are mapped that are not global, and takes up what is kept of `to`.
    pub fn change_space(&mut self, from: u64, to: u64) {
        let next = self.kept.iter().position(|kept| kept.generation == to).map(|at| self.kept.remove(at));
        let oldest = (self.kept.len() >= MAX_KEPT).then(|| self.kept.remove(0));
        let mut kept = oldest.or(self.spare.take()).unwrap_or_default();
        kept.clear();
        (kept.generation, kept.version) = (from, self.version);
        self.unmap(false, &mut kept);
        self.kept.push(kept);
        if let Some(next) = next {
            if next.version == self.version {
                self.map_kept(&next);
            }
            self.spare = Some(next);
        }
    }

    /// Unmaps pages that are not global, or all, and notes what they were.
    fn unmap(&mut self, all: bool, kept: &mut Kept) {
        // SAFETY: as for `map_page`.
        let tables = unsafe { &mut *self.tables };
        self.mapped.clear(all, |slot, off| {
            if self.pages[slot as usize].as_mut().is_some_and(|page| page.marks.take(off)) {
                let address = mem::replace(&mut tables.pages[slot as usize], NOT_MAPPED);
                kept.pages.push((slot, address));
            }
        });
        let marks = &mut self.target_marks;
        self.targets.clear(all, |(table, index), off| {
            if marks[usize::from(table)][usize::from(index)].take(off) {
                let none = JumpTarget::none(usize::from(index));
                let target = mem::replace(&mut tables.targets[usize::from(table)][usize::from(index)], none);
                kept.targets.push((table, index, target));
            }
        });
    }

    fn map_kept(&mut self, kept: &Kept) {
        // SAFETY: as for `map_page`.
        let tables = unsafe { &mut *self.tables };
        for &(slot, address) in &kept.pages {
            if let Some(Some(page)) = self.pages.get_mut(slot as usize)
                && tables.pages[slot as usize] == NOT_MAPPED
            {
                self.mapped.add(slot, false, &mut page.marks);
                tables.pages[slot as usize] = address;
            }
        }
        for &(table, index, kept) in &kept.targets {
            let target = &mut tables.targets[usize::from(table)][usize::from(index)];
            if target.host == 0 {
                let marks = &mut self.target_marks[usize::from(table)][usize::from(index)];
                self.targets.add((table, index), false, marks);
                *target = kept;
            }
        }
    }
}
