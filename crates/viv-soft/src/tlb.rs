//! The TLB (SDM vol. 3, 4.10).
//!
//! It holds 4 KiB translations in direct-mapped tables, one for each way in which the processor can
//! look at memory ([`View`]), so that an entry's presence is all that a hit has to check. An entry has one
//! tag for reads and one for writes; the write tag is there only if the page's dirty bit is set and its record
//! says that a write needs no further word ([`PageRecord::is_plain`](viv_engine::memory::PageRecord)): dirty
//! tracking and self-modifying code cost nothing until they happen.
#![allow(
    unsafe_code,
    reason = "the current table is kept as a pointer, so that a hit is one load and one compare"
)]

use std::collections::HashSet;
use std::hash::BuildHasherDefault;
use std::ptr::NonNull;

use viv_arch::paging;

use crate::block::AddressHasher;
use crate::ram::Ram;
use crate::spaces::{Space, Spaces};
use crate::window::{Page, Window};

/// Entries in a table.
pub const TLB_SIZE: usize = 2048;
/// Tables: one for each [`View`], and the empty one.
pub const TLB_TABLES: usize = 4;
/// All tables.
pub type TlbTables = [[Entry; TLB_SIZE]; TLB_TABLES];
const FETCH_SIZE: usize = 256;
/// The table that stays empty, so that every access takes the slow path, where alignment is checked.
const EMPTY_TABLE: usize = 3;
/// A tag that no page has: its low bits are not clear.
const NO_PAGE: u64 = u64::MAX;
/// How the processor looks at memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum View {
    /// As supervisor, user pages included.
    Supervisor = 0,
    /// As supervisor, SMAP keeping it from user pages.
    SupervisorSmap = 1,
    /// As user.
    User = 2,
}

/// One translation.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Entry {
    /// Linear page address if it may be read.
    pub read: u64,
    /// Linear page address if it may be written.
    pub write: u64,
    /// Where the page lies in the host.
    pub host: u64,
    /// The number of the guest page.
    frame: u32,
    flags: u16,
    /// How often generated code may come here until the page is worth a place in the [`Window`].
    pub heat: u16,
}

const ENTRY_GLOBAL: u16 = 1;
const ENTRY_LARGE: u16 = 2;
/// The entry's place is on the list of those that were filled for the present address space, and of those that were for
/// global pages. What is there now may be the other kind, or nothing.
const ENTRY_LISTED: [u16; 2] = [4, 8];
/// A large page is 1 GiB at the most: its translation is forgotten by the region that it lies in.
const REGION_SHIFT: u32 = 30;
/// The most pages that are remembered for having been fetched from; a guest can map one page at any number of addresses.
const MAX_FETCHED: usize = 1 << 14;

/// Pages or regions.
type AddressSet = HashSet<u64, BuildHasherDefault<AddressHasher>>;

impl Entry {
    /// The entry at `index` that no access hits: it names a page that belongs at another index, and that is not the
    /// next one, where an access from this one may end. (Generated code compares pages by what an exclusive or leaves
    /// of an address, so that low bits cannot tell.)
    pub const fn empty(index: usize) -> Self {
        let tag = Self::no_tag(index);
        Self { read: tag, write: tag, host: 0, frame: 0, flags: 0, heat: 0 }
    }

    const fn no_tag(index: usize) -> u64 {
        ((index ^ 2) << 12) as u64
    }

    /// The host address of an address in the page.
    #[inline(always)]
    pub const fn at(&self, address: u64) -> u64 {
        self.host | (address & paging::PAGE_OFFSET)
    }

    fn page(&self) -> Page {
        Page {
            linear: self.read,
            frame: self.frame,
            writable: self.write == self.read,
            global: self.is_global(),
            large: self.flags & ENTRY_LARGE != 0,
        }
    }

    fn is_global(&self) -> bool {
        self.flags & ENTRY_GLOBAL != 0
    }

    /// Whether it holds a translation.
    fn is_there(&self, index: usize) -> bool {
        self.read != Self::no_tag(index)
    }

    /// Puts another one here; says whether the place has to go on the list of its kind.
    fn replace(&mut self, new: Self) -> bool {
        let listed = self.flags & (ENTRY_LISTED[0] | ENTRY_LISTED[1]);
        let list = ENTRY_LISTED[usize::from(new.is_global())];
        *self = new;
        self.flags |= listed | list;
        listed & list == 0
    }

    fn clear(&mut self, index: usize) {
        let listed = self.flags & (ENTRY_LISTED[0] | ENTRY_LISTED[1]);
        *self = Self { flags: listed, ..Self::empty(index) };
    }
}

#[derive(Clone, Copy)]
struct FetchEntry {
    page: u64,
    generation: u64,
    user: bool,
    fetched: Fetched,
}

/// Where instructions at an address come from.
#[derive(Debug, Clone, Copy)]
pub struct Fetched {
    /// The guest-physical address.
    pub phys: u64,
    /// Whether a change of address space leaves it as it is.
    pub global: bool,
}

/// The TLB.
pub struct Tlb {
    /// The table of the current view.
    pub current: *mut Entry,
    pub(crate) view: View,
    /// Whether accesses must be aligned: the current table is then the one that stays empty.
    pub checks_alignment: bool,
    tables: NonNull<TlbTables>,
    /// Regions of which there are entries of large pages.
    large_regions: AddressSet,
    /// Pages that instructions were fetched from since the generation moved, and regions of which that was a large one.
    fetched: AddressSet,
    fetched_regions: AddressSet,
    /// Which entries were filled since they were last emptied, for the present address space and for global pages, so
    /// that a flush costs what was used.
    filled: [Vec<(View, u16)>; 2],
    fetch: Box<[FetchEntry; FETCH_SIZE]>,
    /// Where generated code finds pages that are used much.
    window: Option<Window>,
    /// The heat of a new entry, unless its place in the window changes hands often.
    heat: u16,
    /// Another one whenever a translation may have changed. That of an address space comes back with it.
    generation: u64,
    /// The generation when a translation of a global page may last have changed.
    global_generation: u64,
    /// The highest generation that there was.
    last_generation: u64,
    /// Address spaces that are not in use.
    spaces: Spaces,
}

// SAFETY: `current` points into `tables`, which lie in the region of the CPU that owns the TLB, and are its alone.
unsafe impl Send for Tlb {}

impl Tlb {
    /// A TLB that keeps its entries, empty now, in `tables`, which outlive it and are nobody else's.
    pub fn new(tables: NonNull<TlbTables>) -> Self {
        let current = tables.as_ptr().cast::<Entry>();
        let fetched = Fetched { phys: 0, global: false };
        let empty = FetchEntry { page: NO_PAGE, generation: 0, user: false, fetched };
        Self {
            current,
            view: View::Supervisor,
            checks_alignment: false,
            tables,
            large_regions: AddressSet::default(),
            fetched: AddressSet::default(),
            fetched_regions: AddressSet::default(),
            filled: [Vec::with_capacity(4096), Vec::with_capacity(4096)],
            fetch: Box::new([empty; FETCH_SIZE]),
            window: None,
            heat: 0,
            generation: 1,
            global_generation: 1,
            last_generation: 1,
            spaces: Spaces::default(),
        }
    }

    /// Has pages that generated code comes to `heat` times mapped in `window`.
    pub fn set_window(&mut self, window: Window, heat: u16) {
        self.window = Some(window);
        self.heat = heat;
    }

    /// Maps the page of an entry in the window: generated code came to it often. `place` is the entry's offset in the
    /// table of its view.
    pub fn map_in_window(&mut self, view: View, place: usize, ram: &Ram) -> bool {
        let index = (place / size_of::<Entry>()) & (TLB_SIZE - 1);
        // SAFETY: as for `table`.
        let entry = unsafe { self.tables.as_ref()[view as usize][index] };
        match &mut self.window {
            Some(window) if entry.is_there(index) => window.map(view, entry.page(), ram),
            _ => false,
        }
    }

    /// Another one whenever a translation may have changed; one that was before, if all translations of then hold again.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The generation when translations of global pages may last have changed.
    #[inline]
    pub fn global_generation(&self) -> u64 {
        self.global_generation
    }

    /// Makes everything that holds for a generation void.
    pub fn next_generation(&mut self) {
        self.fetched.clear();
        self.fetched_regions.clear();
        self.new_generation();
        self.global_generation = self.generation;
        self.spaces.forget_generations();
    }

    fn new_generation(&mut self) {
        self.last_generation += 1;
        self.generation = self.last_generation;
    }

    /// Changes the address space from that of PCID `from` to that of `to`, whose translations are forgotten if it is to be
    /// flushed. `is_plain` says whether a guest page can be written without a word.
    pub fn change_space(&mut self, from: u16, to: u16, flush: bool, is_plain: impl Fn(u32) -> bool) {
        if from == to {
            if flush {
                self.flush_non_global();
            }
            return;
        }
        let next = self.spaces.take(to);
        let mut space = self.spaces.empty(from);
        space.generation = self.generation;
        self.take_non_global(&mut space);
        self.spaces.put(space);
        self.new_generation();
        if let Some(mut space) = next {
            if !flush {
                if space.generation != 0 {
                    self.generation = space.generation;
                }
                self.put_back(&mut space, is_plain);
            }
            self.spaces.discard(space);
        }
    }

    fn take_non_global(&mut self, space: &mut Space) {
        // SAFETY: as for `table`.
        let tables = unsafe { self.tables.as_mut() };
        for (view, index) in self.filled[0].drain(..) {
            let entry = &mut tables[view as usize][index as usize];
            entry.flags &= !ENTRY_LISTED[0];
            if !entry.is_global() && entry.is_there(index as usize) {
                space.entries.push((view, index, *entry));
                entry.clear(index as usize);
            }
        }
        if let Some(window) = &mut self.window {
            window.take_non_global(&mut space.pages);
        }
    }

    fn put_back(&mut self, space: &mut Space, is_plain: impl Fn(u32) -> bool) {
        // SAFETY: as for `table`.
        let tables = unsafe { self.tables.as_mut() };
        for (view, index, mut entry) in space.entries.drain(..) {
            if entry.flags & ENTRY_LARGE != 0 {
                self.large_regions.insert(entry.read >> REGION_SHIFT);
            }
            if entry.write == entry.read && !is_plain(entry.frame) {
                entry.write = Entry::no_tag(index as usize);
            }
            if tables[view as usize][index as usize].replace(entry) {
                self.filled[0].push((view, index));
            }
        }
        if let Some(window) = &mut self.window {
            for (view, mut page) in space.pages.drain(..) {
                page.writable &= is_plain(page.frame);
                window.fill(view, page);
            }
        }
    }

    /// Forgets all translations of an address space that is not in use.
    pub fn flush_space(&mut self, pcid: u16) {
        self.spaces.take(pcid);
    }

    /// Forgets all translations of those that are not in use.
    pub fn flush_spaces(&mut self) {
        self.spaces.clear();
    }

    /// The current view.
    pub fn view(&self) -> View {
        self.view
    }

    /// Changes the current view.
    pub fn set_view(&mut self, view: View, checks_alignment: bool) {
        self.view = view;
        self.checks_alignment = checks_alignment;
        let table = if checks_alignment { EMPTY_TABLE } else { view as usize };
        self.current = self.table(table);
    }

    fn table(&mut self, table: usize) -> *mut Entry {
        // SAFETY: the tables are there as long as the TLB is, and nobody else has a reference to them.
        unsafe { self.tables.as_mut()[table].as_mut_ptr() }
    }

    #[inline(always)]
    fn index(address: u64) -> usize {
        (address >> 12) as usize & (TLB_SIZE - 1)
    }

    /// Where `size` bytes within a page lie in the host, one at least and a page at the most, if there is an entry for
    /// them in `view`.
    #[inline]
    pub fn reach(&self, view: View, address: u64, size: u64, write: bool) -> Option<*mut u8> {
        // SAFETY: as for `table`.
        let entry = unsafe { &self.tables.as_ref()[view as usize][Self::index(address)] };
        let tag = if write { entry.write } else { entry.read };
        let holds = address.wrapping_add(size - 1) & !paging::PAGE_OFFSET == tag;
        holds.then(|| entry.at(address) as *mut u8)
    }

    /// Enters a page that lies at `host`.
    pub fn fill(&mut self, view: View, page: Page, host: *mut u8) {
        let index = Self::index(page.linear);
        if page.large {
            self.large_regions.insert(page.linear >> REGION_SHIFT);
        }
        let mut heat = 0;
        if let Some(window) = &mut self.window {
            heat = self.heat.saturating_mul(1 << window.moves(page.linear).min(15));
            window.fill(view, page);
        }
        let mut entry = Entry {
            read: page.linear,
            write: if page.writable { page.linear } else { Entry::no_tag(index) },
            host: host as u64,
            frame: page.frame,
            flags: if page.global { ENTRY_GLOBAL } else { 0 } | if page.large { ENTRY_LARGE } else { 0 },
            heat,
        };
        // SAFETY: as for `table`.
        let slot = unsafe { &mut self.tables.as_mut()[view as usize][index] };
        // An access to two pages looks both up anew; it must not keep them from the window.
        if slot.read == entry.read && slot.frame == entry.frame && slot.heat != 0 {
            entry.heat = entry.heat.min(slot.heat);
        }
        if slot.replace(entry) {
            self.filled[usize::from(page.global)].push((view, index as u16));
        }
    }

    /// Where instructions at `address` were found to come from, if that holds still.
    #[inline]
    pub fn fetched(&self, address: u64, user: bool) -> Option<Fetched> {
        let slot = &self.fetch[(address >> 12) as usize & (FETCH_SIZE - 1)];
        let Fetched { phys, global } = slot.fetched;
        let holds = if global {
            slot.generation >= self.global_generation
        } else {
            slot.generation == self.generation
        };
        let found = slot.page == address & !paging::PAGE_OFFSET && slot.user == user && holds;
        found.then_some(Fetched { phys: phys | (address & paging::PAGE_OFFSET), global })
    }

    /// Notes where instructions at `address` come from.
    pub fn note_fetched(&mut self, address: u64, user: bool, Fetched { phys, global }: Fetched, large: bool) {
        let page = address & !paging::PAGE_OFFSET;
        if self.fetched.len() >= MAX_FETCHED {
            self.next_generation();
        }
        self.fetched.insert(page);
        if large {
            self.fetched_regions.insert(address >> REGION_SHIFT);
        }
        let fetched = Fetched { phys: phys & !paging::PAGE_OFFSET, global };
        let index = (address >> 12) as usize & (FETCH_SIZE - 1);
        self.fetch[index] = FetchEntry { page, generation: self.generation, user, fetched };
    }

    /// Forgets entries for which `keep` is false.
    fn retain(&mut self, keep: impl Fn(&Entry) -> bool) {
        // SAFETY: as for `table`.
        let tables = unsafe { self.tables.as_mut() };
        for (list, listed) in self.filled.iter_mut().zip(ENTRY_LISTED) {
            list.retain(|&(view, index)| {
                let entry = &mut tables[view as usize][index as usize];
                let stays = keep(entry);
                if !stays {
                    entry.clear(index as usize);
                    entry.flags &= !listed;
                }
                stays
            });
        }
    }

    /// Forgets everything, global pages included.
    pub fn flush_all(&mut self) {
        self.retain(|_| false);
        if let Some(window) = &mut self.window {
            window.retain(|_, _| false);
        }
        self.large_regions.clear();
        self.spaces.clear();
        self.next_generation();
    }

    /// Forgets everything of the present address space, which is all but global pages.
    pub fn flush_non_global(&mut self) {
        let mut space = self.spaces.scratch();
        self.take_non_global(&mut space);
        self.spaces.discard(space);
        self.new_generation();
    }

    /// Forgets the translation of one page; for a large page, all of it.
    pub fn flush_page(&mut self, address: u64) {
        let page = address & !paging::PAGE_OFFSET;
        let region = address >> REGION_SHIFT;
        if self.large_regions.contains(&region) {
            let keeps = |read: u64, large: bool| {
                let distance = read ^ page;
                if large { distance >> REGION_SHIFT != 0 } else { distance != 0 }
            };
            self.retain(|entry| keeps(entry.read, entry.flags & ENTRY_LARGE != 0));
            if let Some(window) = &mut self.window {
                window.retain(keeps);
            }
        } else {
            if let Some(window) = &mut self.window {
                window.flush_page(page);
            }
            let index = Self::index(address);
            // SAFETY: as for `table`.
            let tables = unsafe { self.tables.as_mut() };
            for table in tables {
                if table[index].read == page {
                    table[index].clear(index);
                }
            }
        }
        if self.fetched.contains(&page) || self.fetched_regions.contains(&region) {
            self.next_generation();
        }
    }

    /// Makes writes to a guest-physical page pass by its record again.
    pub fn protect(&mut self, phys: u64) {
        let frame = (phys >> 12) as u32;
        if let Some(window) = &mut self.window {
            window.protect(frame);
        }
        // SAFETY: as for `table`.
        let tables = unsafe { self.tables.as_mut() };
        for &(view, index) in self.filled.iter().flatten() {
            let entry = &mut tables[view as usize][index as usize];
            if entry.frame == frame {
                entry.write = Entry::no_tag(index as usize);
            }
        }
    }
}
