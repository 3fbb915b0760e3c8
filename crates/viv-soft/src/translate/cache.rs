//! Translations, where they are, and how they are linked.
//!
//! A trace is found by the physical address and the mode that it was made for. Branches between traces are patched to
//! lead from one to the other: within a page at once, for both come and go with the page; between pages through the
//! slot of the target's page, which says where that page is mapped now. When a page's code changes, its traces are
//! unlinked and forgotten; their memory is used again when the arena is full and everything is dropped.
#![allow(unsafe_code, reason = "the CPU's tables are reached by pointer")]

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasherDefault;
use std::mem;
use std::sync::Arc;

use viv_arch::paging;

use super::Mode;
use super::emit::{self, Emitted, Job, Tools};
use super::frame::{page_slot, target_index};
use super::listed::{Lists, Marks};
use super::thunks::{self, Interpret, Thunks};
use super::trace::{Room, Trace};
use crate::block::{AddressHasher, Source};
use crate::hostexec::{ArenaError, CodeArena, FaultSites};
use crate::op::Op;
use crate::region::{JUMP_TARGETS, JumpTarget, NOT_MAPPED, PAGE_SLOTS, TARGET_TABLES, Tables};

/// In the auxiliary vector's AT_HWCAP2: programs may write the base of GS.
const HWCAP2_FSGSBASE: usize = 1 << 1;
/// Memory for translated code.
const ARENA_SIZE: usize = 128 << 20;
/// Instructions that may fault on the host, in all translated code.
const MAX_FAULT_SITES: usize = 1 << 16;

/// The number of a trace.
pub type TraceId = u32;
type EdgeId = u32;
type Slot = u32;

/// A trace. It is rarely in the host's caches when it is needed, so it has one line of them.
#[repr(align(64))]
struct Record {
    slot: Slot,
    /// The page that it runs into.
    second: Option<Slot>,
    /// Where its code is for indirect branches.
    start: u64,
    /// Where, behind that, it is for other branches from other pages, and for those from its own page.
    entry: u32,
    entry_in_page: u32,
    /// The first edge that leads to it; 0 if none does.
    incoming: EdgeId,
    /// What leads away from it: the first edge and the number of them.
    first_edge: EdgeId,
    edges: u32,
    /// Kept for the interpreter: the code refers to it.
    _ops: Box<[Op]>,
}

/// A branch that may be linked.
struct Edge {
    /// The page that it leads away from.
    from: Slot,
    leaves_page: bool,
    site: Option<u32>,
    page_site: Option<u32>,
    exit: u32,
    /// Relative to the page.
    target: i64,
    to: Option<TraceId>,
    /// The next of those that lead where it does; 0 if it is the last.
    next: EdgeId,
}

/// The traces that begin in a page, by offset.
pub type Traces = HashMap<u16, TraceId, BuildHasherDefault<AddressHasher>>;

/// A page that traces were made from, in one mode.
struct Page {
    source: Source,
    mode: Mode,
    traces: Traces,
    /// Traces of other pages that run into this one.
    visitors: Vec<TraceId>,
    /// Of its slot.
    marks: Marks,
}

/// The most address spaces of which is kept where pages are mapped.
const MAX_KEPT: usize = 12;

/// Where pages are mapped in an address space that is not in use.
#[derive(Default)]
struct Kept {
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
    arena: CodeArena,
    fault_sites: Arc<FaultSites>,
    thunks: Thunks,
    tools: Tools,
    pub(super) room: Room,
    interpret: Interpret,
    traces: Vec<Option<Record>>,
    edges: Vec<Edge>,
    /// By slot. Slot 0 is no page's.
    pages: Vec<Option<Page>>,
    free_slots: Vec<Slot>,
    by_page: HashMap<u64, Slot, BuildHasherDefault<AddressHasher>>,
    /// Slots of pages that are mapped.
    mapped: Lists<Slot>,
    /// Which branch targets are set.
    targets: Lists<(u8, u16)>,
    /// By table and place.
    target_marks: Box<[[Marks; JUMP_TARGETS]; TARGET_TABLES]>,
    tables: *mut Tables,
    /// Where pages of address spaces are mapped that are not in use.
    kept: Vec<Kept>,
    /// One whose memory can be used again.
    spare: Option<Kept>,
    /// Where indirect branches may still lead although the traces are gone.
    dropped: HashSet<u64, BuildHasherDefault<AddressHasher>>,
    /// Instructions translated since everything was dropped.
    instructions: usize,
    /// Moves when a trace is dropped.
    version: u64,
}

// SAFETY: the tables are the CPU's own, which moves with the translator.
unsafe impl Send for Translator {}

impl Translator {
    /// A translator whose code finds its tables at `tables`, which live as long as it does. `None`: the host lacks
    /// instructions that translated code is made of.
    ///
    /// # Errors
    /// When there is no memory for code.
    pub fn new(tables: *mut Tables, interpret: Interpret) -> Result<Option<Self>, ArenaError> {
        use std::arch::is_x86_feature_detected as has;
        let (_, hwcap2) = rustix::param::linux_hwcap();
        if !has!("bmi2") || !has!("sse4.2") || hwcap2 & HWCAP2_FSGSBASE == 0 {
            return Ok(None);
        }
        let fault_sites = Arc::new(FaultSites::new(MAX_FAULT_SITES));
        let arena = CodeArena::with_fault_sites(ARENA_SIZE, Arc::clone(&fault_sites))?;
        let mut translator = Self {
            arena,
            fault_sites,
            thunks: Thunks::default(),
            tools: Tools::default(),
            room: Room::default(),
            interpret,
            traces: Vec::new(),
            edges: Vec::new(),
            pages: Vec::new(),
            free_slots: Vec::new(),
            by_page: HashMap::default(),
            mapped: Lists::default(),
            targets: Lists::default(),
            target_marks: Box::new([[Marks::default(); JUMP_TARGETS]; TARGET_TABLES]),
            tables,
            kept: Vec::new(),
            spare: None,
            dropped: HashSet::default(),
            instructions: 0,
            version: 0,
        };
        translator.clear()?;
        Ok(Some(translator))
    }

    /// Drops everything.
    ///
    /// # Errors
    /// Never in practice: the thunks fit an empty arena.
    pub fn clear(&mut self) -> Result<(), ArenaError> {
        self.version += 1;
        self.unmap_all();
        self.traces.clear();
        self.edges.clear();
        // Edge 0 stands for none.
        self.edges.push(Edge {
            from: 0,
            leaves_page: false,
            site: None,
            page_site: None,
            exit: 0,
            target: 0,
            to: None,
            next: 0,
        });
        self.pages.clear();
        self.pages.push(None);
        self.free_slots.clear();
        self.by_page.clear();
        self.fault_sites.clear();
        self.arena.clear();
        self.instructions = 0;
        let mut asm = super::asm::Asm::new(self.arena.next_address(), 0);
        let avx = std::arch::is_x86_feature_detected!("avx");
        self.thunks = thunks::emit(&mut asm, self.interpret, avx);
        if let Some(([code, _], _)) = asm.finish() {
            self.arena.push(&code)?;
        }
        Ok(())
    }

    /// Moves when a trace is dropped: what was found before may be gone.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The thunk that runs translated code.
    pub fn enter_thunk(&self) -> u64 {
        self.thunks.enter
    }

    /// Instructions translated since everything was dropped.
    pub fn instructions(&self) -> usize {
        self.instructions
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
        self.version += 1;
        self.drop_trace(trace);
        self.forget_targets();
        Found::Nothing
    }

    /// The trace at `phys`, and the page that it runs into.
    fn look_up(&self, phys: u64, mode: Mode) -> Option<(TraceId, Option<u64>)> {
        let slot = *self.by_page.get(&page_key(phys & !paging::PAGE_OFFSET, mode))?;
        let page = self.pages[slot as usize].as_ref()?;
        let trace = *page.traces.get(&((phys & paging::PAGE_OFFSET) as u16))?;
        let runs_into = self.traces[trace as usize].as_ref()?.second;
        let found =
            runs_into.and_then(|slot| self.pages[slot as usize].as_ref()).map(|page| page.source.phys);
        Some((trace, found))
    }

    /// The traces in a page.
    pub fn traces_of(&self, page: u64, mode: Mode) -> Option<&Traces> {
        let slot = *self.by_page.get(&page_key(page, mode))?;
        self.pages[slot as usize].as_ref().map(|page| &page.traces)
    }

    /// Translates a trace of the page that `source` names and `page` holds. `None`: it cannot be translated.
    ///
    /// # Errors
    /// When there is no room: everything must be dropped.
    pub fn add(
        &mut self,
        source: Source,
        second: Option<Source>,
        page: &[u8],
        mode: Mode,
        trace: Trace,
    ) -> Result<Option<TraceId>, ArenaError> {
        let full = || ArenaError::Full { wanted: 0, used: ARENA_SIZE, size: ARENA_SIZE };
        let slot = self.page(source, mode).ok_or_else(full)?;
        let second = match second {
            None => None,
            Some(second) => Some(self.page(second, mode).ok_or_else(full)?),
        };
        let job = Job { trace: &trace, page, second, mode };
        let base = [self.arena.next_address(), self.arena.next_cold_address()];
        let first_edge = self.edges.len() as EdgeId;
        let Some(Emitted { code: [code, cold], entry, entry_in_page, edges, fault_sites }) =
            emit::emit(job, &self.thunks, &mut self.tools, base, first_edge)
        else {
            return Ok(None);
        };
        if !self.fault_sites.has_room(fault_sites.len()) {
            return Err(full());
        }
        self.arena.push_cold(&cold)?;
        let start = self.arena.push(&code)?.as_ptr() as u64;
        let offset = |address: u64| self.arena.offset_of(address);
        for (at, go_on) in fault_sites {
            self.fault_sites.push(
                !(start..start + code.len() as u64).contains(&at),
                offset(at),
                offset(go_on),
            );
        }
        let count = edges.len() as u32;
        self.edges.extend(edges.into_iter().map(|edge| Edge {
            from: slot,
            leaves_page: edge.leaves_page,
            site: edge.site.map(offset),
            page_site: edge.page_site.map(offset),
            exit: offset(edge.exit),
            target: edge.target,
            to: None,
            next: 0,
        }));
        let id = self.traces.len() as TraceId;
        if let Some(page) = &mut self.pages[slot as usize] {
            page.traces.insert(trace.start as u16, id);
        }
        if let Some(second) = second
            && let Some(page) = &mut self.pages[second as usize]
        {
            page.visitors.push(id);
        }
        self.instructions += trace.items.len();
        self.traces.push(Some(Record {
            slot,
            second,
            start,
            entry: offset(entry),
            entry_in_page: offset(entry_in_page),
            incoming: 0,
            first_edge,
            edges: count,
            _ops: trace.ops,
        }));
        self.room.items = trace.items;
        Ok(Some(id))
    }

    /// The slot of a page, a new one if need be. `None`: there are too many.
    fn page(&mut self, source: Source, mode: Mode) -> Option<Slot> {
        let key = page_key(source.phys, mode);
        if let Some(&slot) = self.by_page.get(&key) {
            return Some(slot);
        }
        let page =
            Page { source, mode, traces: HashMap::default(), visitors: Vec::new(), marks: Marks::default() };
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

    /// Where a trace's code is.
    pub fn entry(&self, id: TraceId) -> Option<u64> {
        self.traces[id as usize].as_ref().map(|record| self.arena.address_of(record.entry))
    }

    /// Where an edge goes, relative to the page.
    pub fn target(&self, edge: EdgeId) -> i64 {
        self.edges[edge as usize].target
    }

    /// Makes a branch lead straight to a trace, which is what it was found to come to.
    pub fn link(&mut self, edge: EdgeId, to: TraceId) {
        let Some(record) = self.traces[to as usize].as_mut() else { return };
        let Edge { from, leaves_page, site: Some(site), page_site, to: old, .. } = self.edges[edge as usize]
        else {
            return;
        };
        let page = |slot: Slot| self.pages[slot as usize].as_ref().map(|page| page.source.phys);
        // A guest may change what is mapped where it runs, without a word to the TLB. (The page in another mode is
        // another slot.)
        if old == Some(to) || (!leaves_page && page(from) != page(record.slot)) {
            return;
        }
        let slot = record.slot;
        let entry = if leaves_page { record.entry } else { record.entry_in_page };
        let next = mem::replace(&mut record.incoming, edge);
        if let Some(old) = old {
            self.forget_incoming(old, edge);
        }
        if let Some(page_site) = page_site {
            self.arena.patch(page_site, page_slot(slot).disp.to_le_bytes());
        }
        self.arena.patch(site, entry.wrapping_sub(site + 4).to_le_bytes());
        let edge = &mut self.edges[edge as usize];
        (edge.to, edge.next) = (Some(to), next);
    }

    fn unlink(&mut self, edge: EdgeId) {
        let Edge { site, page_site, exit, .. } = self.edges[edge as usize];
        if let Some(page_site) = page_site {
            self.arena.patch(page_site, page_slot(0).disp.to_le_bytes());
        }
        if let Some(site) = site {
            self.arena.patch(site, exit.wrapping_sub(site + 4).to_le_bytes());
        }
        self.edges[edge as usize].to = None;
    }

    /// Makes every branch leave.
    pub fn unlink_all(&mut self) {
        for edge in 1..self.edges.len() as EdgeId {
            if let Some(to) = self.edges[edge as usize].to {
                self.unlink(edge);
                self.forget_incoming(to, edge);
            }
        }
        self.unmap_all();
    }

    /// Takes an edge off the list of those that lead to a trace.
    fn forget_incoming(&mut self, trace: TraceId, edge: EdgeId) {
        let Some(Some(record)) = self.traces.get_mut(trace as usize) else { return };
        let next = self.edges[edge as usize].next;
        if record.incoming == edge {
            record.incoming = next;
            return;
        }
        let mut at = record.incoming;
        while at != 0 {
            let before = &mut self.edges[at as usize];
            if before.next == edge {
                before.next = next;
                return;
            }
            at = before.next;
        }
    }

    /// Whether the trace runs into the next page.
    pub fn crosses(&self, id: TraceId) -> bool {
        self.traces[id as usize].as_ref().is_some_and(|record| record.second.is_some())
    }

    /// Says that the page that the trace runs into is mapped at `linear`'s page.
    pub fn map_second(&mut self, id: TraceId, linear: u64, global: bool) {
        if let Some(Record { second: Some(slot), .. }) = self.traces[id as usize] {
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
        let Some(record) = &self.traces[id as usize] else { return };
        let (slot, start) = (record.slot, record.start);
        self.map_page(slot, linear, global);
        // SAFETY: as for `map_page`.
        let tables = unsafe { &mut *self.tables };
        let (table, key) = (mode.target_table(), mode.target_key(linear));
        let index = target_index(key);
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

    /// Drops the traces whose bytes have changed.
    pub fn drop_outdated(&mut self) {
        let outdated: Vec<Slot> = (self.pages.iter().enumerate())
            .filter(|(_, page)| page.as_ref().is_some_and(|page| !page.source.is_current()))
            .map(|(slot, _)| slot as Slot)
            .collect();
        if outdated.is_empty() {
            return;
        }
        self.version += 1;
        for slot in outdated {
            self.drop_page(slot);
        }
        self.forget_targets();
    }

    /// Makes no indirect branch lead to what was dropped.
    fn forget_targets(&mut self) {
        // SAFETY: as for `map_page`.
        let tables = unsafe { &mut *self.tables };
        let dropped = mem::take(&mut self.dropped);
        for (table, index) in self.targets.iter() {
            let target = &mut tables.targets[usize::from(table)][usize::from(index)];
            if dropped.contains(&target.host) {
                *target = JumpTarget::none(usize::from(index));
            }
        }
    }

    fn drop_page(&mut self, slot: Slot) {
        let Some(page) = self.pages[slot as usize].take() else { return };
        self.by_page.remove(&page_key(page.source.phys, page.mode));
        // SAFETY: as for `map_page`.
        unsafe { (*self.tables).pages[slot as usize] = NOT_MAPPED };
        self.mapped.remove(slot);
        for trace in page.traces.into_values().chain(page.visitors) {
            self.drop_trace(trace);
        }
        self.free_slots.push(slot);
    }

    fn drop_trace(&mut self, trace: TraceId) {
        let Some(record) = self.traces[trace as usize].take() else { return };
        self.dropped.insert(record.start);
        let mut edge = record.incoming;
        while edge != 0 {
            self.unlink(edge);
            edge = self.edges[edge as usize].next;
        }
        for edge in record.first_edge..record.first_edge + record.edges {
            if let Some(to) = self.edges[edge as usize].to.take() {
                self.forget_incoming(to, edge);
            }
        }
        // One that ran from page to page is known to both.
        for slot in [Some(record.slot), record.second].into_iter().flatten() {
            if let Some(page) = &mut self.pages[slot as usize] {
                page.traces.retain(|_, &mut other| other != trace);
                page.visitors.retain(|&other| other != trace);
            }
        }
    }
}

const _: () = assert!(size_of::<Option<Record>>() == 64);

/// What pages are found by.
fn page_key(phys: u64, mode: Mode) -> u64 {
    phys | u64::from(mode.bits())
}

const _: () = assert!(page_slot(0).disp > i8::MAX as i32);
