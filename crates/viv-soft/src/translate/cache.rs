//! Translations, and how they are found.
//!
//! A trace is found by the physical address and the mode that it was made for. Branches between traces are patched to
//! lead from one to the other ([`links`](super::links)): within a page at once, for both come and go with the page; between
//! pages through the slot of the target's page, which says where that page is mapped now ([`mapping`](super::mapping)).
//! When a page's code changes, its traces are unlinked and forgotten; their memory is used again when its part's turn
//! comes ([`parts`](super::parts), [`evict`](super::evict)).
#![allow(unsafe_code, reason = "the CPU's tables are kept by pointer")]

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasherDefault;

use viv_arch::paging;
use viv_engine::Translations;

use super::Mode;
use super::asm::Asm;
use super::emit::{self, Job};
use super::listed::{Lists, Marks};
use super::mapping::Kept;
use super::parts::{EdgeId, Parts, Slot, TraceId};
use super::thunks::{self, Interpret, Thunks};
use super::tools::Tools;
use super::trace::{Room, Trace};
use crate::block::{AddressHasher, Source};
use crate::hostexec::ArenaError;
use crate::region::{JUMP_TARGETS, PAGE_SLOTS, TARGET_TABLES, Tables};

/// In the auxiliary vector's AT_HWCAP2: programs may write the base of GS.
const HWCAP2_FSGSBASE: usize = 1 << 1;

/// The traces that begin in a page, by offset.
#[derive(Default)]
pub struct Traces(Vec<(u16, TraceId)>);

impl Traces {
    fn place(&self, offset: u16) -> Result<usize, usize> {
        self.0.binary_search_by_key(&offset, |&(offset, _)| offset)
    }

    /// The trace at an offset.
    pub fn get(&self, offset: u16) -> Option<TraceId> {
        Some(self.0[self.place(offset).ok()?].1)
    }

    /// Puts a trace at an offset, in the place of another if there is one.
    fn insert(&mut self, offset: u16, trace: TraceId) {
        match self.place(offset) {
            Ok(at) => self.0[at].1 = trace,
            Err(at) => self.0.insert(at, (offset, trace)),
        }
    }

    /// Takes a trace out, if it is the one at its offset.
    pub fn remove(&mut self, offset: u16, trace: TraceId) {
        if let Ok(at) = self.place(offset)
            && self.0[at].1 == trace
        {
            self.0.remove(at);
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them.
    pub fn into_ids(self) -> impl Iterator<Item = TraceId> {
        self.0.into_iter().map(|(_, trace)| trace)
    }
}

/// A page that traces were made from, in one mode.
pub struct Page {
    pub source: Source,
    pub mode: Mode,
    pub traces: Traces,
    /// Traces of other pages that run into this one.
    pub visitors: Vec<TraceId>,
    /// Of its slot.
    pub marks: Marks,
}

/// A part has no room.
struct Full;

/// What there is at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    Trace(TraceId),
    /// A loop that runs into the next page, of which nothing is known yet.
    Unsure,
    Nothing,
}

/// All translations of a vCPU.
pub struct Translator {
    pub(super) parts: Parts,
    thunks: Thunks,
    tools: Tools,
    pub(super) room: Room,
    /// By slot. Slot 0 is no page's.
    pub(super) pages: Vec<Option<Page>>,
    pub(super) free_slots: Vec<Slot>,
    pub(super) by_page: HashMap<u64, Slot, BuildHasherDefault<AddressHasher>>,
    /// Slots of pages that are mapped.
    pub(super) mapped: Lists<Slot>,
    /// Which branch targets are set.
    pub(super) targets: Lists<(u8, u16)>,
    /// Which of the two places for a branch target was last taken from another one.
    pub(super) replaced: usize,
    /// By table and place.
    pub(super) target_marks: Box<[[Marks; JUMP_TARGETS]; TARGET_TABLES]>,
    pub(super) tables: *mut Tables,
    /// Where pages of address spaces are mapped that are not in use.
    pub(super) kept: Vec<Kept>,
    /// One whose memory can be used again.
    pub(super) spare: Option<Kept>,
    /// Where indirect branches may still lead although the traces are gone.
    pub(super) dropped: HashSet<u64, BuildHasherDefault<AddressHasher>>,
    /// Moves when a trace is dropped.
    pub(super) version: u64,
    pub(super) counts: Translations,
}

// SAFETY: the tables are the CPU's own, which moves with the translator.
unsafe impl Send for Translator {}

impl Translator {
    /// A translator with so many bytes for code, which finds its tables at `tables`, which live as long as it does.
    /// `None`: the host lacks instructions that translated code is made of.
    ///
    /// # Errors
    /// When there is no memory for code.
    pub fn new(size: usize, tables: *mut Tables, interpret: Interpret) -> Result<Option<Self>, ArenaError> {
        use std::arch::is_x86_feature_detected as has;
        let (_, hwcap2) = rustix::param::linux_hwcap();
        if !has!("bmi2") || !has!("sse4.2") || hwcap2 & HWCAP2_FSGSBASE == 0 {
            return Ok(None);
        }
        let mut thunks = Thunks::default();
        let parts = Parts::new(size, |address| {
            let mut asm = Asm::default();
            asm.begin([address, 0]);
            thunks = thunks::emit(&mut asm, interpret, has!("avx"));
            let mut code = [const { Vec::new() }; 2];
            asm.finish(&mut code);
            let [code, _] = code;
            code
        })?;
        Ok(Some(Self {
            parts,
            thunks,
            tools: Tools::default(),
            room: Room::default(),
            pages: vec![None],
            free_slots: Vec::new(),
            by_page: HashMap::default(),
            mapped: Lists::default(),
            targets: Lists::default(),
            replaced: 0,
            target_marks: Box::new([[Marks::default(); JUMP_TARGETS]; TARGET_TABLES]),
            tables,
            kept: Vec::new(),
            spare: None,
            dropped: HashSet::default(),
            version: 0,
            counts: Translations::default(),
        }))
    }

    /// Moves when a trace is dropped: what was found before may be gone.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The thunk that runs translated code.
    pub fn enter_thunk(&self) -> u64 {
        self.thunks.enter
    }

    /// Instructions translated whose memory was not used again.
    pub fn instructions(&self) -> usize {
        self.parts.instructions()
    }

    /// What was done so far.
    pub fn counts(&self) -> Translations {
        self.counts
    }

    /// The trace at physical address `phys`, whose first instruction runs into the page at `second`, if into any. `next` is
    /// the page behind, if that is known, which a loop may run into.
    pub fn find(&mut self, phys: u64, second: Option<u64>, next: Option<u64>, mode: Mode) -> Found {
        let Some((trace, found)) = self.look_up(phys, mode) else { return Found::Nothing };
        if found == second {
            return Found::Trace(trace);
        }
        if found.is_some() && second.is_none() {
            match next {
                None => return Found::Unsure,
                Some(_) if next == found => return Found::Trace(trace),
                Some(_) => {}
            }
        }
        // The same page lies before another one now.
        self.drop_trace(trace);
        self.forget_dropped();
        Found::Nothing
    }

    /// The trace at `phys`, and the page that it runs into.
    fn look_up(&self, phys: u64, mode: Mode) -> Option<(TraceId, Option<u64>)> {
        let slot = *self.by_page.get(&page_key(phys & !paging::PAGE_OFFSET, mode))?;
        let page = self.pages[slot as usize].as_ref()?;
        let trace = page.traces.get((phys & paging::PAGE_OFFSET) as u16)?;
        let runs_into = self.parts.trace(trace)?.second;
        let found =
            runs_into.and_then(|slot| self.pages[slot as usize].as_ref()).map(|page| page.source.phys);
        Some((trace, found))
    }

    /// The traces in a page.
    pub fn traces_of(&self, page: u64, mode: Mode) -> Option<&Traces> {
        let slot = *self.by_page.get(&page_key(page, mode))?;
        self.pages[slot as usize].as_ref().map(|page| &page.traces)
    }

    /// Translates a trace of the page that `source` names and `page` holds. What is oldest may have to go. `None`: it
    /// cannot be translated.
    pub fn add(
        &mut self,
        source: Source,
        second: Option<Source>,
        page: &[u8],
        mode: Mode,
        mut trace: Trace,
    ) -> Option<TraceId> {
        let id = match self.put(source, second, page, mode, &mut trace) {
            Ok(id) => id,
            Err(Full) => {
                // Pages that nothing else was made from may go with it, so their slots are looked for once more.
                self.go_on();
                self.put(source, second, page, mode, &mut trace).unwrap_or(None)
            }
        };
        self.room.items = trace.items;
        id
    }

    /// Puts a trace into the current part, unless that is full.
    fn put(
        &mut self,
        source: Source,
        second: Option<Source>,
        page: &[u8],
        mode: Mode,
        trace: &mut Trace,
    ) -> Result<Option<TraceId>, Full> {
        self.make_room_for_pages();
        let Some(slot) = self.page(source, mode) else { return Ok(None) };
        let second = match second.map(|second| self.page(second, mode)) {
            Some(None) => {
                self.free_if_unused(slot);
                return Ok(None);
            }
            found => found.flatten(),
        };
        let offset = trace.start as u16;
        let job = Job { trace, page, second, mode };
        let (base, first_edge) = (self.parts.next_addresses(), self.parts.next_edge());
        let id = match emit::emit(job, &self.thunks, &mut self.tools, base, first_edge) {
            None => Ok(None),
            Some(emitted) => {
                let instructions = trace.ops.len() as u64;
                let pushed = self.parts.push(emitted, (slot, second, offset), &mut trace.ops);
                if pushed.is_some() {
                    self.counts.traces += 1;
                    self.counts.instructions += instructions;
                    self.counts.bytes += emitted.code[0].len() as u64;
                    self.counts.seldom_bytes += emitted.code[1].len() as u64;
                }
                pushed.map(Some).ok_or(Full)
            }
        };
        if let Ok(Some(id)) = id {
            if let Some(page) = &mut self.pages[slot as usize] {
                page.traces.insert(offset, id);
            }
            if let Some(second) = second
                && let Some(page) = &mut self.pages[second as usize]
            {
                page.visitors.push(id);
            }
        } else {
            for slot in [Some(slot), second].into_iter().flatten() {
                self.free_if_unused(slot);
            }
        }
        id
    }

    /// The slot of a page, a new one if need be. `None`: there are too many.
    fn page(&mut self, source: Source, mode: Mode) -> Option<Slot> {
        let key = page_key(source.phys, mode);
        if let Some(&slot) = self.by_page.get(&key) {
            return Some(slot);
        }
        let page =
            Page { source, mode, traces: Traces::default(), visitors: Vec::new(), marks: Marks::default() };
        let slot = if let Some(slot) = self.free_slots.pop() {
            self.pages[slot as usize] = Some(page);
            slot
        } else {
            if self.pages.len() >= PAGE_SLOTS {
                return None;
            }
            self.pages.push(Some(page));
            self.pages.len() as Slot - 1
        };
        self.by_page.insert(key, slot);
        Some(slot)
    }

    /// How many pages there is room for.
    pub(super) fn unused_slots(&self) -> usize {
        self.free_slots.len() + PAGE_SLOTS - self.pages.len()
    }

    /// Where a trace's code is.
    pub fn entry(&self, id: TraceId) -> Option<u64> {
        self.parts.trace(id).map(|record| self.parts.arena.address_of(record.entry))
    }

    /// Where an edge goes, relative to the page.
    pub fn target(&self, edge: EdgeId) -> i64 {
        self.parts.edge(edge).target
    }
}

/// What pages are found by.
pub(super) fn page_key(phys: u64, mode: Mode) -> u64 {
    phys | u64::from(mode.bits())
}

const _: () = assert!(super::frame::page_slot(0).disp > i8::MAX as i32);
