//! The window: hot pages of the guest, mapped where the host's MMU translates for generated code.
//!
//! A window is 4 GiB of the host's address space, one for each vCPU. Page `n` of it stands for the guest's linear pages
//! whose numbers end in the same 20 bits, and is mapped to the guest page that one of them was found to be. Which one,
//! and whether it may be read or written, is what the *tags* say: generated code compares the tag with the address
//! while the host already loads from the window, so that an access does not wait for its translation. The TLB of the
//! [`mmu`](crate::mmu) remains for everything else.
//!
//! A page is mapped when it was reached often by way of the TLB (a mapping costs some microseconds), and stays mapped
//! when its translation is forgotten: only the tags go. Pages are mapped between runs of translated code, never in
//! them. Whatever generated code computes, an offset of 32 bits does not leave the window.
#![allow(unsafe_code, reason = "maps guest pages, and keeps tables in the CPU's region")]

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::ptr::{self, NonNull};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use viv_arch::paging;

use crate::block::AddressHasher;
use crate::ram::Ram;
use crate::tlb::View;

/// Pages of a window.
pub const WINDOW_PAGES: usize = 1 << 20;
const SIZE: usize = WINDOW_PAGES << 12;
/// With a page behind it that is never mapped: an operand at the highest address ends there.
const RESERVED: usize = SIZE + paging::PAGE_SIZE as usize;
/// The most mappings of all windows of a process, each of which may split another: the host has a limit for all that a
/// process maps (`vm.max_map_count`, 65,530).
const MAX_MAPPINGS: usize = 16_000;
const VIEWS: usize = 3;
const NONE: u32 = u32::MAX;
/// The pages of a large page.
const LARGE_PAGES: usize = 512;

/// What generated code compares, all zeros to begin with but for what [`Window::new`] writes.
#[repr(C)]
pub struct WindowTables {
    /// By view: linear page addresses that may be read, and those that may be written.
    pub tags: [[[u64; WINDOW_PAGES]; 2]; VIEWS],
    slots: [Slot; WINDOW_PAGES],
}

/// What is known of a page of the window. All zeros: it is not mapped.
#[derive(Clone, Copy)]
#[repr(C)]
struct Slot {
    /// One more than the number of the guest page that is mapped here.
    frame: u32,
    /// The next slot with the same page, or [`NONE`].
    next: u32,
    /// By view: whether it is on the list of tags that were set for the present address space, and on that of global pages;
    /// whether its page is global, whether it is a large one's.
    listed: [u8; 2],
    global: u8,
    large: u8,
    /// How often it was mapped to another page than before.
    moves: u8,
    _reserved: [u8; 3],
}

/// A page's translation.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// Its address.
    pub linear: u64,
    /// The number of the guest page.
    pub frame: u32,
    pub writable: bool,
    pub global: bool,
    pub large: bool,
}

/// A window and its tags.
pub struct Window {
    base: NonNull<u8>,
    tables: NonNull<WindowTables>,
    /// The tags that were set for the present address space and for global pages: view and number. What is there now may
    /// be the other kind, or nothing.
    filled: [Vec<(View, u32)>; 2],
    /// The first slot of each guest page that is mapped.
    by_frame: HashMap<u64, u32, BuildHasherDefault<AddressHasher>>,
    mappings: usize,
    max_mappings: usize,
}

// SAFETY: the window and its tables are this CPU's own, and move with it.
unsafe impl Send for Window {}

/// A tag that no address has whose page belongs to `number`, nor one that ends in the next page.
const fn no_tag(number: usize) -> u64 {
    if number == 0 { 2 << 12 } else { 0 }
}

const fn number(linear: u64) -> usize {
    (linear >> 12) as usize & (WINDOW_PAGES - 1)
}

impl Window {
    /// An empty window, one of `count` in this process, whose tags are in `tables`, which outlive it and are zeros. `None`:
    /// the host has no room for it.
    pub fn new(tables: NonNull<WindowTables>, count: usize) -> Option<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe { mmap_anonymous(ptr::null_mut(), RESERVED, ProtFlags::empty(), flags) }.ok()?;
        let base = NonNull::new(base.cast())?;
        let mut window = Self {
            base,
            tables,
            filled: [Vec::new(), Vec::new()],
            by_frame: HashMap::default(),
            mappings: 0,
            max_mappings: MAX_MAPPINGS / count.max(1),
        };
        for tags in window.tables().tags.as_flattened_mut() {
            tags[0] = no_tag(0);
        }
        Some(window)
    }

    /// Where it is.
    pub fn address(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    fn tables(&mut self) -> &mut WindowTables {
        // SAFETY: they are there as long as the window is, all of it plain numbers, and nobody else has a reference.
        unsafe { self.tables.as_mut() }
    }

    /// How often what is mapped at an address has changed.
    pub fn moves(&mut self, linear: u64) -> u8 {
        self.tables().slots[number(linear)].moves
    }

    /// Lets generated code reach a page, if it is mapped.
    #[inline]
    pub fn fill(&mut self, view: View, page: Page) {
        let n = number(page.linear);
        let bit = 1 << view as u8;
        let tables = self.tables();
        let slot = &mut tables.slots[n];
        if slot.frame != page.frame + 1 {
            return;
        }
        let set = |bits: &mut u8, on: bool| *bits = *bits & !bit | if on { bit } else { 0 };
        set(&mut slot.global, page.global);
        set(&mut slot.large, page.large);
        let list = usize::from(page.global);
        let listed = slot.listed[list] & bit != 0;
        slot.listed[list] |= bit;
        let [reads, writes] = &mut tables.tags[view as usize];
        reads[n] = page.linear;
        writes[n] = if page.writable { page.linear } else { no_tag(n) };
        if !listed {
            self.filled[list].push((view, n as u32));
        }
    }

    /// Maps a page, or the large page that it is of, and lets generated code reach it; says whether a mapping was made. Not
    /// while translated code runs.
    pub fn map(&mut self, view: View, page: Page, ram: &Ram) -> bool {
        let n = number(page.linear);
        let is_new = self.tables().slots[n].frame != page.frame + 1;
        if is_new {
            if self.mappings >= self.max_mappings {
                self.unmap_all();
            }
            let first = n & !(LARGE_PAGES - 1);
            let whole =
                page.large && self.tables().slots[first..first + LARGE_PAGES].iter().all(|s| s.frame == 0);
            let before = (n - first) as u32;
            let mapped = whole
                && page.frame & (LARGE_PAGES as u32 - 1) == before
                && self.map_frames(first, page.frame - before, LARGE_PAGES, ram);
            if !mapped && !self.map_frames(n, page.frame, 1, ram) {
                return false;
            }
        }
        self.fill(view, page);
        is_new
    }

    /// Maps `count` pages from `frame` on at page `first`; says whether they are.
    fn map_frames(&mut self, first: usize, frame: u32, count: usize, ram: &Ram) -> bool {
        for n in first..first + count {
            self.release(n);
        }
        // SAFETY: the place is inside the window, where nothing is that anybody has a reference to; translated code,
        // which reaches it, does not run.
        let at = unsafe { self.base.as_ptr().add(first << 12) };
        // SAFETY: as above.
        if !unsafe { ram.map_pages(at, u64::from(frame) << 12, count) } {
            return false;
        }
        self.mappings += 1;
        for k in 0..count {
            let (n, frame) = (first + k, frame + k as u32);
            let next = self.by_frame.insert(u64::from(frame), n as u32);
            let slot = &mut self.tables().slots[n];
            slot.frame = frame + 1;
            slot.next = next.unwrap_or(NONE);
        }
        true
    }

    /// Takes a page out of the tables: it is about to be mapped anew.
    fn release(&mut self, n: usize) {
        let slot = self.tables().slots[n];
        if slot.frame == 0 {
            return;
        }
        let frame = slot.frame - 1;
        let tables = self.tables();
        tables.slots[n].frame = 0;
        tables.slots[n].moves = slot.moves.saturating_add(1);
        for tags in tables.tags.as_flattened_mut() {
            tags[n] = no_tag(n);
        }
        let mut at = self.by_frame.get(&u64::from(frame)).copied().unwrap_or(NONE);
        if at == n as u32 {
            match slot.next {
                NONE => self.by_frame.remove(&u64::from(frame)),
                next => self.by_frame.insert(u64::from(frame), next),
            };
            return;
        }
        while at != NONE {
            let before = &mut self.tables().slots[at as usize];
            if before.next == n as u32 {
                before.next = slot.next;
                return;
            }
            at = before.next;
        }
    }

    fn unmap_all(&mut self) {
        let frames: Vec<u32> = self.by_frame.drain().map(|(_, first)| first).collect();
        for mut n in frames {
            while n != NONE {
                let tables = self.tables();
                let slot = &mut tables.slots[n as usize];
                slot.frame = 0;
                let next = slot.next;
                for tags in tables.tags.as_flattened_mut() {
                    tags[n as usize] = no_tag(n as usize);
                }
                n = next;
            }
        }
        self.mappings = 0;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
        // SAFETY: it replaces the window's own mappings, which nothing is set up to reach any more. A failure leaves pages
        // there that no tag leads to.
        let _ = unsafe { mmap_anonymous(self.base.as_ptr().cast(), SIZE, ProtFlags::empty(), flags) };
    }

    /// Takes the pages out that are not global, and puts them on `list`.
    pub fn take_non_global(&mut self, list: &mut Vec<(View, Page)>) {
        // SAFETY: as for `tables`.
        let tables = unsafe { self.tables.as_mut() };
        for (view, n) in self.filled[0].drain(..) {
            let number = n as usize;
            let slot = &mut tables.slots[number];
            let bit = 1 << view as u8;
            let [reads, writes] = &mut tables.tags[view as usize];
            let empty = no_tag(number);
            slot.listed[0] &= !bit;
            if slot.global & bit != 0 {
                continue;
            }
            if reads[number] != empty {
                let page = Page {
                    linear: reads[number],
                    frame: slot.frame - 1,
                    writable: writes[number] != empty,
                    global: false,
                    large: slot.large & bit != 0,
                };
                list.push((view, page));
            }
            (reads[number], writes[number]) = (empty, empty);
        }
    }

    /// Forgets translations for which `keep` is false; it gets the linear address, and whether the page is a large one's.
    pub fn retain(&mut self, keep: impl Fn(u64, bool) -> bool) {
        // SAFETY: as for `tables`.
        let tables = unsafe { self.tables.as_mut() };
        for (list, filled) in self.filled.iter_mut().enumerate() {
            filled.retain(|&(view, n)| {
                let n = n as usize;
                let slot = &mut tables.slots[n];
                let bit = 1 << view as u8;
                let [reads, writes] = &mut tables.tags[view as usize];
                if reads[n] != no_tag(n) && keep(reads[n], slot.large & bit != 0) {
                    return true;
                }
                (reads[n], writes[n]) = (no_tag(n), no_tag(n));
                slot.listed[list] &= !bit;
                false
            });
        }
    }

    /// Forgets the translation of one page that is not large.
    pub fn flush_page(&mut self, page: u64) {
        let n = number(page);
        for [reads, writes] in &mut self.tables().tags {
            if reads[n] == page {
                (reads[n], writes[n]) = (no_tag(n), no_tag(n));
            }
        }
    }

    /// Makes writes to a guest page go by way of the TLB.
    pub fn protect(&mut self, frame: u32) {
        let mut n = self.by_frame.get(&u64::from(frame)).copied().unwrap_or(NONE);
        while n != NONE {
            let tables = self.tables();
            for [_, writes] in &mut tables.tags {
                writes[n as usize] = no_tag(n as usize);
            }
            n = tables.slots[n as usize].next;
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: the mapping is that of `new`, and translated code does not run any more. A failure leaks address space.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), RESERVED) };
    }
}
