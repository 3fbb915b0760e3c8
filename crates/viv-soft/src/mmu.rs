//! Address translation: the page walk and the TLB (SDM vol. 3, chapter 4).
//!
//! The TLB holds 4 KiB translations in direct-mapped tables, one for each way in which the processor can
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

use viv_arch::{Cr0, Cr4, Efer, Exception, Rflags, Vector, paging};

use crate::block::AddressHasher;
use crate::cpu::{Cpu, Fault, Pending};
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
/// The width of guest-physical addresses, as CPUID tells it.
pub const PHYSICAL_BITS: u32 = 46;

/// What an access is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading data.
    Read,
    /// Writing data, or reading what is about to be written.
    Write,
    /// Fetching instructions.
    Fetch,
}

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

/// A translated address.
#[derive(Debug, Clone, Copy)]
pub struct Translation {
    /// The guest-physical address.
    pub phys: u64,
    writable: bool,
    global: bool,
    large: bool,
}

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
    pub fn map_in_window(&mut self, view: View, place: usize, ram: &Ram) {
        let index = (place / size_of::<Entry>()) & (TLB_SIZE - 1);
        // SAFETY: as for `table`.
        let entry = unsafe { self.tables.as_ref()[view as usize][index] };
        if let Some(window) = &mut self.window
            && entry.is_there(index)
        {
            window.map(view, entry.page(), ram);
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

    fn set_view(&mut self, view: View, checks_alignment: bool) {
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

    fn fill(&mut self, view: View, mut entry: Entry, address: u64) {
        let index = Self::index(address);
        if entry.flags & ENTRY_LARGE != 0 {
            self.large_regions.insert(address >> REGION_SHIFT);
        }
        if let Some(window) = &mut self.window {
            entry.heat = self.heat.saturating_mul(1 << window.moves(address).min(15));
            window.fill(view, entry.page());
        }
        // SAFETY: as for `table`.
        let slot = unsafe { &mut self.tables.as_mut()[view as usize][index] };
        if slot.replace(entry) {
            self.filled[usize::from(entry.is_global())].push((view, index as u16));
        }
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
        let mut space = self.spaces.empty(0);
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

impl Cpu {
    /// Recomputes the view of memory after a change of CPL, CR0, CR4 or RFLAGS.AC.
    pub fn update_mmu_mode(&mut self) {
        let view = if self.cpl == 3 {
            View::User
        } else if self.cr4.contains(Cr4::SMAP) && !self.flag(Rflags::AC) {
            View::SupervisorSmap
        } else {
            View::Supervisor
        };
        let checks_alignment = view == View::User && self.cr0.contains(Cr0::AM) && self.flag(Rflags::AC);
        self.tlb.set_view(view, checks_alignment);
    }

    /// The view for accesses that the processor makes for itself: descriptor tables, the TSS.
    pub fn system_view(&self) -> View {
        if self.cr4.contains(Cr4::SMAP) { View::SupervisorSmap } else { View::Supervisor }
    }

    /// The current view.
    pub fn view(&self) -> View {
        self.tlb.view
    }

    /// Translates `address` and enters it in the TLB, unless it is no RAM or is to be watched.
    ///
    /// A write to a page that holds decoded code outdates the code, and ends the running block after the
    /// present instruction.
    #[cold]
    #[inline(never)]
    pub fn translate(&mut self, address: u64, access: Access, view: View) -> Result<u64, Fault> {
        let translation = self.walk(address, access, view)?;
        let phys = translation.phys;
        let Some(page) = self.ram.page(phys) else { return Ok(phys) };
        if access == Access::Write {
            if page.record.has_code(page.index) {
                self.op_end = std::ptr::null();
            }
            page.record.note_write(page.index);
        }
        if access == Access::Fetch || self.debug.watches_page(address) {
            return Ok(phys);
        }
        let tag = address & !paging::PAGE_OFFSET;
        let flags = if translation.global { ENTRY_GLOBAL } else { 0 }
            | if translation.large { ENTRY_LARGE } else { 0 };
        let entry = Entry {
            read: tag,
            write: if translation.writable && page.record.is_plain(page.index) {
                tag
            } else {
                Entry::no_tag(Tlb::index(address))
            },
            host: page.host as u64,
            frame: (phys >> 12) as u32,
            flags,
            heat: 0,
        };
        self.tlb.fill(view, entry, address);
        Ok(phys)
    }

    /// Translates the address of an instruction.
    #[inline]
    pub fn translate_fetch(&mut self, address: u64) -> Result<Fetched, Fault> {
        let user = self.cpl == 3;
        let page = address & !paging::PAGE_OFFSET;
        let index = (address >> 12) as usize & (FETCH_SIZE - 1);
        let slot = &self.tlb.fetch[index];
        if slot.page == page && slot.user == user {
            let Fetched { phys, global } = slot.fetched;
            let holds = if global {
                slot.generation >= self.tlb.global_generation
            } else {
                slot.generation == self.tlb.generation
            };
            if holds {
                return Ok(Fetched { phys: phys | (address & paging::PAGE_OFFSET), global });
            }
        }
        let view = if user { View::User } else { View::Supervisor };
        let Translation { phys, global, large, .. } = self.walk(address, Access::Fetch, view)?;
        if self.tlb.fetched.len() >= MAX_FETCHED {
            self.tlb.next_generation();
        }
        self.tlb.fetched.insert(page);
        if large {
            self.tlb.fetched_regions.insert(address >> REGION_SHIFT);
        }
        let fetched = Fetched { phys: phys & !paging::PAGE_OFFSET, global };
        self.tlb.fetch[index] = FetchEntry { page, generation: self.tlb.generation, user, fetched };
        Ok(Fetched { phys, global })
    }

    fn page_fault<T>(&mut self, address: u64, code: u32, access: Access, view: View) -> Result<T, Fault> {
        let mut error_code = code;
        if view == View::User {
            error_code |= paging::FAULT_USER;
        }
        match access {
            Access::Read => {}
            Access::Write => error_code |= paging::FAULT_WRITE,
            Access::Fetch => {
                if self.cr4.contains(Cr4::SMEP) || self.efer.contains(Efer::NXE) {
                    error_code |= paging::FAULT_FETCH;
                }
            }
        }
        self.raise(Exception { vector: Vector::PageFault, error_code, address })
    }

    /// Walks the page tables, sets accessed and dirty bits, checks rights.
    fn walk(&mut self, address: u64, access: Access, view: View) -> Result<Translation, Fault> {
        if !self.cr0.contains(Cr0::PG) {
            return Ok(Translation { phys: address, writable: true, global: false, large: false });
        }
        if !self.long_mode() {
            self.pending = Some(Pending::Unsupported("paging outside long mode".to_owned()));
            return Err(Fault);
        }
        loop {
            if let Some(translation) = self.walk_4_level(address, access, view)? {
                return Ok(translation);
            }
        }
    }

    /// One try at the walk. `None`: an entry changed under it.
    fn walk_4_level(
        &mut self,
        address: u64,
        access: Access,
        view: View,
    ) -> Result<Option<Translation>, Fault> {
        let write = access == Access::Write;
        let nxe = self.efer.contains(Efer::NXE);
        let mut table = self.cr3 & paging::ADDRESS;
        let mut rights = paging::WRITABLE | paging::USER;
        let mut no_execute = false;
        // (address of the entry, entry) for each level that was passed.
        let mut path = [(0u64, 0u64); 4];
        let mut depth = 0;
        let leaf_shift = loop {
            let shift = 39 - 9 * depth as u32;
            let at = table + ((address >> shift) & 0x1ff) * 8;
            let Some(entry) = self.ram.read::<u64>(at) else {
                // Page tables in device memory read as all ones there: reserved bits are set.
                return self.page_fault(
                    address,
                    paging::FAULT_PRESENT | paging::FAULT_RESERVED,
                    access,
                    view,
                );
            };
            if entry & paging::PRESENT == 0 {
                return self.page_fault(address, 0, access, view);
            }
            let is_leaf = depth == 3 || (entry & paging::LARGE != 0 && (depth == 1 || depth == 2));
            if entry & reserved_bits(depth, is_leaf, nxe) != 0 {
                return self.page_fault(
                    address,
                    paging::FAULT_PRESENT | paging::FAULT_RESERVED,
                    access,
                    view,
                );
            }
            path[depth] = (at, entry);
            rights &= entry;
            no_execute |= entry & paging::NO_EXECUTE != 0;
            depth += 1;
            if is_leaf {
                break shift;
            }
            table = entry & paging::ADDRESS;
        };
        let user_page = rights & paging::USER != 0;
        let writable = rights & paging::WRITABLE != 0;
        let reachable = !user_page || view == View::Supervisor;
        let allowed = match (view, access) {
            (View::User, Access::Read | Access::Fetch) => user_page,
            (View::User, Access::Write) => user_page && writable,
            (_, Access::Fetch) => !user_page || !self.cr4.contains(Cr4::SMEP),
            (_, Access::Read) => reachable,
            (_, Access::Write) => reachable && (writable || !self.cr0.contains(Cr0::WP)),
        };
        if !allowed || (access == Access::Fetch && no_execute) {
            return self.page_fault(address, paging::FAULT_PRESENT, access, view);
        }
        for (level, &(at, entry)) in path.iter().enumerate().take(depth) {
            let mut wanted = entry | paging::ACCESSED;
            if write && level == depth - 1 {
                wanted |= paging::DIRTY;
            }
            if wanted != entry && !self.set_entry(at, entry, wanted) {
                return Ok(None);
            }
        }
        let (_, leaf) = path[depth - 1];
        let offset = (1u64 << leaf_shift) - 1;
        Ok(Some(Translation {
            phys: (leaf & paging::ADDRESS & !offset) | (address & offset),
            // An entry for writing needs the dirty bit set already.
            writable: (write || leaf & paging::DIRTY != 0)
                && (writable || (view != View::User && !self.cr0.contains(Cr0::WP))),
            global: leaf & paging::GLOBAL != 0 && self.cr4.contains(Cr4::PGE),
            large: leaf_shift != 12,
        }))
    }

    fn set_entry(&mut self, at: u64, old: u64, new: u64) -> bool {
        if self.ram.page(at).is_some_and(|page| page.record.has_code(page.index)) {
            self.op_end = std::ptr::null();
        }
        self.ram.update_entry(at, old, new)
    }
}

/// The bits that must be zero in an entry at `depth` (0: PML4E).
fn reserved_bits(depth: usize, is_leaf: bool, nxe: bool) -> u64 {
    let address = paging::ADDRESS & !((1 << PHYSICAL_BITS) - 1);
    let no_execute = if nxe { 0 } else { paging::NO_EXECUTE };
    let by_level = match (depth, is_leaf) {
        (0, _) => paging::LARGE,
        // Bit 12 is the PAT bit of large pages.
        (1, true) => 0x3fff_e000,
        (2, true) => 0x001f_e000,
        _ => 0,
    };
    address | no_execute | by_level
}
