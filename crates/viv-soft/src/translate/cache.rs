//! Translations, where they are, and how they are linked.
//!
//! A trace is found by the physical address and the mode that it was made for. Branches between traces are patched to
//! lead from one to the other: within a page at once, for both come and go with the page; between pages through the
//! slot of the target's page, which says where that page is mapped now. When a page's code changes, its traces are
//! unlinked and forgotten; their memory is used again when the arena is full and everything is dropped.
#![allow(unsafe_code, reason = "the CPU's tables are reached by pointer")]

use std::collections::HashMap;
use std::sync::Arc;

use viv_arch::paging;

use super::emit::{self, Emitted};
use super::frame::{page_slot, target_index};
use super::thunks::{self, Interpret, Thunks};
use super::trace::Trace;
use super::Mode;
use crate::block::Source;
use crate::hostexec::{ArenaError, CodeArena, FaultSites};
use crate::mmu::View;
use crate::op::Op;
use crate::region::{JumpTarget, NOT_MAPPED, PAGE_SLOTS, Tables};

/// Memory for translated code.
const ARENA_SIZE: usize = 32 << 20;
/// Instructions that may fault on the host, in all translated code.
const MAX_FAULT_SITES: usize = 1 << 16;

/// The number of a trace.
pub type TraceId = u32;
type EdgeId = u32;
type Slot = u32;

struct Record {
    slot: Slot,
    /// Where its code is.
    entry: u64,
    /// What leads to it.
    incoming: Vec<EdgeId>,
    /// What leads away from it: the first edge and the number of them.
    first_edge: EdgeId,
    edges: u32,
    /// Kept for the interpreter: the code refers to it.
    _ops: Box<[Op]>,
}

/// A branch that may be linked.
struct Edge {
    site: Option<u32>,
    page_site: Option<u32>,
    exit: u32,
    /// Relative to the page.
    target: i64,
    to: Option<TraceId>,
}

/// A page that traces were made from, in one mode.
struct Page {
    source: Source,
    mode: Mode,
    traces: HashMap<u16, TraceId>,
    /// The linear address for which its slot is set.
    mapped: Option<Mapped>,
}

#[derive(Clone, Copy)]
struct Mapped {
    global: bool,
}

/// All translations of a vCPU.
pub struct Translator {
    arena: CodeArena,
    fault_sites: Arc<FaultSites>,
    thunks: Thunks,
    interpret: Interpret,
    traces: Vec<Option<Record>>,
    edges: Vec<Edge>,
    /// By slot. Slot 0 is no page's.
    pages: Vec<Option<Page>>,
    free_slots: Vec<Slot>,
    by_page: HashMap<(u64, Mode), Slot>,
    /// Slots of pages that are mapped.
    mapped: Vec<Slot>,
    /// Which branch targets are set, with whether their pages are global.
    targets: Vec<(View, u16, bool)>,
    tables: *mut Tables,
    /// Instructions translated since everything was dropped.
    instructions: usize,
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
        if !std::arch::is_x86_feature_detected!("bmi2") {
            return Ok(None);
        }
        let fault_sites = Arc::new(FaultSites::new(MAX_FAULT_SITES));
        let arena = CodeArena::with_fault_sites(ARENA_SIZE, Arc::clone(&fault_sites))?;
        let mut translator = Self {
            arena,
            fault_sites,
            thunks: Thunks::default(),
            interpret,
            traces: Vec::new(),
            edges: Vec::new(),
            pages: Vec::new(),
            free_slots: Vec::new(),
            by_page: HashMap::new(),
            mapped: Vec::new(),
            targets: Vec::new(),
            tables,
            instructions: 0,
        };
        translator.clear()?;
        Ok(Some(translator))
    }

    /// Drops everything.
    ///
    /// # Errors
    /// Never in practice: the thunks fit an empty arena.
    pub fn clear(&mut self) -> Result<(), ArenaError> {
        self.unmap(true);
        self.traces.clear();
        self.edges.clear();
        // Edge 0 stands for none.
        self.edges.push(Edge { site: None, page_site: None, exit: 0, target: 0, to: None });
        self.pages.clear();
        self.pages.push(None);
        self.free_slots.clear();
        self.by_page.clear();
        self.fault_sites.clear();
        self.arena.clear();
        self.instructions = 0;
        let mut asm = super::asm::Asm::new(self.arena.next_address());
        let avx = std::arch::is_x86_feature_detected!("avx");
        self.thunks = thunks::emit(&mut asm, self.interpret, avx);
        if let Some((code, _)) = asm.finish() {
            self.arena.push(&code)?;
        }
        Ok(())
    }

    /// The thunk that runs translated code.
    pub fn enter_thunk(&self) -> u64 {
        self.thunks.enter
    }

    /// Instructions translated since everything was dropped.
    pub fn instructions(&self) -> usize {
        self.instructions
    }

    /// The trace at physical address `phys`.
    pub fn find(&self, phys: u64, mode: Mode) -> Option<TraceId> {
        let slot = *self.by_page.get(&(phys & !paging::PAGE_OFFSET, mode))?;
        let page = self.pages[slot as usize].as_ref()?;
        page.traces.get(&((phys & paging::PAGE_OFFSET) as u16)).copied()
    }

    /// Translates a trace of the page that `source` names and `page` holds. `None`: it cannot be translated.
    ///
    /// # Errors
    /// When there is no room: everything must be dropped.
    pub fn add(
        &mut self,
        source: Source,
        page: &[u8],
        mode: Mode,
        trace: Trace,
    ) -> Result<Option<TraceId>, ArenaError> {
        let base = self.arena.next_address();
        let first_edge = self.edges.len() as EdgeId;
        let Some(Emitted { code, edges, fault_sites }) =
            emit::emit(&trace, page, mode, &self.thunks, base, first_edge)
        else {
            return Ok(None);
        };
        let full = ArenaError::Full { wanted: code.len(), used: self.arena.used(), size: ARENA_SIZE };
        if !self.fault_sites.has_room(fault_sites.len()) {
            return Err(full);
        }
        let key = (source.phys, mode);
        let slot = match self.by_page.get(&key) {
            Some(&slot) => slot,
            None => self.new_page(source, mode).ok_or(full)?,
        };
        let entry = self.arena.push(&code)?.as_ptr() as u64;
        let offset = self.arena.offset_of(entry);
        for (at, go_on) in fault_sites {
            self.fault_sites.push(offset + at, offset + go_on);
        }
        let count = edges.len() as u32;
        self.edges.extend(edges.into_iter().map(|edge| Edge {
            site: edge.site.map(|site| offset + site as u32),
            page_site: edge.page_site.map(|site| offset + site as u32),
            exit: offset + edge.exit as u32,
            target: edge.target,
            to: None,
        }));
        let id = self.traces.len() as TraceId;
        if let Some(page) = &mut self.pages[slot as usize] {
            page.traces.insert(trace.start as u16, id);
        }
        self.instructions += trace.items.len();
        self.traces.push(Some(Record {
            slot,
            entry,
            incoming: Vec::new(),
            first_edge,
            edges: count,
            _ops: trace.ops,
        }));
        Ok(Some(id))
    }

    fn new_page(&mut self, source: Source, mode: Mode) -> Option<Slot> {
        let key = (source.phys, mode);
        let page = Page { source, mode, traces: HashMap::new(), mapped: None };
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
        self.traces[id as usize].as_ref().map(|record| record.entry)
    }

    /// Where an edge goes, relative to the page.
    pub fn target(&self, edge: EdgeId) -> i64 {
        self.edges[edge as usize].target
    }

    /// Makes a branch lead straight to a trace, which is what it was found to come to.
    pub fn link(&mut self, edge: EdgeId, to: TraceId) {
        let Some(record) = self.traces[to as usize].as_mut() else { return };
        let Edge { site: Some(site), page_site, to: old, .. } = self.edges[edge as usize] else { return };
        if old == Some(to) {
            return;
        }
        record.incoming.push(edge);
        let (slot, entry) = (record.slot, record.entry);
        if let Some(old) = old {
            self.forget_incoming(old, edge);
        }
        let entry = self.arena.offset_of(entry);
        if let Some(page_site) = page_site {
            self.arena.patch(page_site, page_slot(slot).disp.to_le_bytes());
        }
        self.arena.patch(site, entry.wrapping_sub(site + 4).to_le_bytes());
        self.edges[edge as usize].to = Some(to);
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

    fn forget_incoming(&mut self, trace: TraceId, edge: EdgeId) {
        if let Some(Some(record)) = self.traces.get_mut(trace as usize)
            && let Some(at) = record.incoming.iter().position(|&other| other == edge)
        {
            record.incoming.swap_remove(at);
        }
    }

    /// Says that the trace's page is mapped at `linear`'s page, and that branches to `linear` come to the trace.
    pub fn map(&mut self, id: TraceId, linear: u64, global: bool) {
        let Some(record) = &self.traces[id as usize] else { return };
        let Some(page) = &mut self.pages[record.slot as usize] else { return };
        let view = page.mode.view();
        // SAFETY: the tables live as long as the translator, and only this thread uses them.
        let tables = unsafe { &mut *self.tables };
        tables.pages[record.slot as usize] = (linear & !paging::PAGE_OFFSET).wrapping_neg();
        if page.mapped.replace(Mapped { global }).is_none() {
            self.mapped.push(record.slot);
        }
        let index = target_index(linear);
        let target = &mut tables.targets[view as usize][index];
        if target.is_none() {
            self.targets.push((view, index as u16, global));
        } else if !global {
            // The entry may be down as global.
            self.targets.push((view, index as u16, false));
        }
        *target = JumpTarget::new(linear, record.entry);
    }

    /// Forgets where pages are mapped: those that are not global, or all.
    pub fn unmap(&mut self, all: bool) {
        // SAFETY: as for `map`.
        let tables = unsafe { &mut *self.tables };
        let pages = &mut self.pages;
        self.mapped.retain(|&slot| {
            let Some(page) = &mut pages[slot as usize] else { return false };
            let stays = page.mapped.is_some_and(|mapped| mapped.global) && !all;
            if !stays {
                page.mapped = None;
                tables.pages[slot as usize] = NOT_MAPPED;
            }
            stays
        });
        self.targets.retain(|&(view, index, global)| {
            let stays = global && !all;
            if !stays {
                tables.targets[view as usize][index as usize] = JumpTarget::none(usize::from(index));
            }
            stays
        });
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
            self.drop_page(slot);
        }
        // Branch targets may be in what has gone.
        self.unmap(true);
    }

    fn drop_page(&mut self, slot: Slot) {
        let Some(page) = self.pages[slot as usize].take() else { return };
        self.by_page.remove(&(page.source.phys, page.mode));
        // SAFETY: as for `map`.
        unsafe { (*self.tables).pages[slot as usize] = NOT_MAPPED };
        self.mapped.retain(|&other| other != slot);
        for trace in page.traces.into_values() {
            let Some(record) = self.traces[trace as usize].take() else { continue };
            for edge in record.incoming {
                self.unlink(edge);
            }
            for edge in record.first_edge..record.first_edge + record.edges {
                if let Some(to) = self.edges[edge as usize].to.take() {
                    self.forget_incoming(to, edge);
                }
            }
        }
        self.free_slots.push(slot);
    }
}

const _: () = assert!(page_slot(0).disp > i8::MAX as i32);
