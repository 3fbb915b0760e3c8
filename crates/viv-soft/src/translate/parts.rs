//! The memory of translations, in parts that are used in turn.
//!
//! A part has the code of traces, what usually runs apart from what seldom does, with their records, their edges and
//! their fault sites. Traces are added to the current part. When that is full the next one is emptied, so that what is
//! oldest goes, and a little at a time.

use std::ops::Range;
use std::sync::Arc;

use super::emit::Emitted;
use crate::hostexec::{ArenaError, CodeArena, FaultSites};
use crate::op::Op;

/// The most parts.
const MAX_PARTS: usize = 64;
/// The fewest.
const MIN_PARTS: usize = 4;
/// What a part has at least, unless there would be too few.
const MIN_PART_SIZE: usize = 64 << 10;
/// Instructions that may fault on the host, of those that usually run in a part, and of the others.
const MAX_FAULT_SITES: usize = 1 << 12;
/// The most traces in a part, and the most edges: their numbers have so many bits besides the part's.
const MAX_NUMBER: usize = 1 << NUMBER_BITS;
const NUMBER_BITS: u32 = 16;
/// Where code begins.
const ALIGNMENT: usize = 16;

/// The number of a trace: its part, and its place there.
pub type TraceId = u32;
/// The number of an edge: one more than its part, and its place there. 0 is none's.
pub type EdgeId = u32;
pub type Slot = u32;

/// A trace. It is rarely in the host's caches when it is needed, so it has one line of them.
#[repr(align(64))]
pub struct Record {
    pub slot: Slot,
    /// The page that it runs into.
    pub second: Option<Slot>,
    /// Where its code is, for branches from other pages and indirect ones, and where it is for those from its own page.
    pub entry: u32,
    pub entry_in_page: u32,
    /// The first edge that leads to it; 0 if none does.
    pub incoming: EdgeId,
    /// What leads away from it: the first edge and the number of them.
    pub first_edge: EdgeId,
    pub edges: u16,
    /// Where it begins in its page.
    pub offset: u16,
    /// Kept for the interpreter: the code refers to it.
    _ops: Box<[Op]>,
}

const _: () = assert!(size_of::<Option<Record>>() == 64);

/// A branch that may be linked.
pub struct Edge {
    /// The page that it leads away from.
    pub from: Slot,
    pub leaves_page: bool,
    pub site: Option<u32>,
    pub page_site: Option<u32>,
    pub exit: u32,
    /// Relative to the page.
    pub target: i64,
    pub to: Option<TraceId>,
    /// The next of those that lead where it does; 0 if it is the last.
    pub next: EdgeId,
}

/// What is in a part.
#[derive(Default)]
struct Part {
    /// Bytes in use of what usually runs, and of what seldom does.
    used: [usize; 2],
    traces: Vec<Option<Record>>,
    edges: Vec<Edge>,
    /// Guest instructions.
    instructions: usize,
}

/// All parts.
pub struct Parts {
    pub arena: CodeArena,
    fault_sites: Arc<FaultSites>,
    parts: Box<[Part]>,
    current: usize,
    /// Guest instructions in all parts, those of dropped traces included.
    instructions: usize,
    /// Where the parts' code begins, and how many bytes each has.
    first: [usize; 2],
    size: [usize; 2],
    /// Where the code of the trace is that was added last.
    last: [Range<u64>; 2],
}

impl Parts {
    /// How many parts an arena of `size` bytes has.
    fn count(size: usize) -> usize {
        (size / MIN_PART_SIZE).clamp(MIN_PARTS, MAX_PARTS)
    }

    /// An arena of `size` bytes, which begins with what `emit` writes for its address and stays.
    ///
    /// # Errors
    /// When the memory cannot be had.
    pub fn new(size: usize, emit: impl FnOnce(u64) -> Vec<u8>) -> Result<Self, ArenaError> {
        let count = Self::count(size);
        let fault_sites = Arc::new(FaultSites::new(count, MAX_FAULT_SITES));
        let mut arena = CodeArena::with_fault_sites(size, Arc::clone(&fault_sites))?;
        let code = emit(arena.next_address());
        arena.push(&code)?;
        let first = arena.used().next_multiple_of(ALIGNMENT);
        let each = arena.size().saturating_sub(first) / count;
        let usual = each / 5 * 2 / ALIGNMENT * ALIGNMENT;
        Ok(Self {
            fault_sites,
            parts: (0..count).map(|_| Part::default()).collect(),
            current: 0,
            instructions: 0,
            first: [first, first + count * usual],
            size: [usual, each - usual],
            last: [0..0, 0..0],
            arena,
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.parts.len()
    }

    /// Makes the next part the current one; gives its number. It must be emptied.
    pub fn advance(&mut self) -> usize {
        self.arena.rest();
        self.current = (self.current + 1) % self.parts.len();
        self.current
    }

    /// The part whose traces are the oldest.
    pub fn oldest(&self) -> Option<usize> {
        let count = self.parts.len();
        (1..=count).map(|n| (self.current + n) % count).find(|&part| !self.parts[part].traces.is_empty())
    }

    /// Where the next trace's code is to lie: what usually runs and what seldom does.
    pub fn next_addresses(&self) -> [u64; 2] {
        [0, 1].map(|kind| self.arena.address_of(self.next_offset(kind) as u32))
    }

    fn next_offset(&self, kind: usize) -> usize {
        let used = self.parts[self.current].used[kind];
        let used = if kind == 0 { used.next_multiple_of(ALIGNMENT) } else { used };
        self.first[kind] + self.current * self.size[kind] + used
    }

    /// The number of the next trace's first edge.
    pub fn next_edge(&self) -> EdgeId {
        edge_id(self.current, self.parts[self.current].edges.len())
    }

    /// Whether the current part has room for a trace.
    fn has_room(&self, emitted: &Emitted) -> bool {
        let part = &self.parts[self.current];
        let fits = |kind: usize| {
            let end = self.first[kind] + (self.current + 1) * self.size[kind];
            self.next_offset(kind) + emitted.code[kind].len() <= end
        };
        fits(0)
            && fits(1)
            && part.traces.len() < MAX_NUMBER
            && part.edges.len() + emitted.edges.len() <= MAX_NUMBER
            && self.fault_sites.has_room(self.current, emitted.fault_sites.len())
    }

    /// Adds a trace whose code was written for [`Parts::next_addresses`] and [`Parts::next_edge`], with `instructions`
    /// guest instructions, which begins at `offset` in page `slot`. `None`: the part is full.
    pub fn push(
        &mut self,
        emitted: &Emitted,
        (slot, second, offset): (Slot, Option<Slot>, u16),
        ops: &mut Box<[Op]>,
    ) -> Option<TraceId> {
        if !self.has_room(emitted) {
            return None;
        }
        let first_edge = self.next_edge();
        let offsets = [0, 1].map(|kind| self.next_offset(kind));
        for (kind, start) in offsets.into_iter().enumerate() {
            self.arena.write(start, &emitted.code[kind]).ok()?;
        }
        self.last = [0, 1].map(|kind| {
            let start = self.arena.address_of(offsets[kind] as u32);
            start..start + emitted.code[kind].len() as u64
        });
        let part = &mut self.parts[self.current];
        for (kind, start) in offsets.into_iter().enumerate() {
            part.used[kind] =
                start + emitted.code[kind].len() - self.first[kind] - self.current * self.size[kind];
        }
        let arena = &self.arena;
        let usual = offsets[0]..offsets[0] + emitted.code[0].len();
        for &(at, go_on) in &emitted.fault_sites {
            let at = arena.offset_of(at);
            let cold = !usual.contains(&(at as usize));
            self.fault_sites.push(self.current, cold, at, arena.offset_of(go_on));
        }
        part.edges.extend(emitted.edges.iter().map(|edge| Edge {
            from: slot,
            leaves_page: edge.leaves_page,
            site: edge.site.map(|site| arena.offset_of(site)),
            page_site: edge.page_site.map(|site| arena.offset_of(site)),
            exit: arena.offset_of(edge.exit),
            target: edge.target,
            to: None,
            next: 0,
        }));
        part.instructions += ops.len();
        self.instructions += ops.len();
        let id = (self.current << NUMBER_BITS | part.traces.len()) as TraceId;
        part.traces.push(Some(Record {
            slot,
            second,
            entry: offsets[0] as u32,
            entry_in_page: arena.offset_of(emitted.entry_in_page),
            incoming: 0,
            first_edge,
            edges: emitted.edges.len() as u16,
            offset,
            _ops: std::mem::take(ops),
        }));
        Some(id)
    }

    /// Where the code of the trace is that was added last: what usually runs, and what seldom does.
    pub fn last(&self) -> &[Range<u64>; 2] {
        &self.last
    }

    /// A trace, unless it was dropped.
    pub fn trace(&self, id: TraceId) -> Option<&Record> {
        self.parts[part_of(id)].traces[number(id)].as_ref()
    }

    /// The same, to be changed.
    pub fn trace_mut(&mut self, id: TraceId) -> Option<&mut Record> {
        self.parts[part_of(id)].traces[number(id)].as_mut()
    }

    /// Takes out a trace that is dropped. Its memory stays as it is until its part is emptied.
    pub fn take_trace(&mut self, id: TraceId) -> Option<Record> {
        self.parts[part_of(id)].traces[number(id)].take()
    }

    /// An edge.
    pub fn edge(&self, id: EdgeId) -> &Edge {
        &self.parts[part_of_edge(id)].edges[number(id)]
    }

    /// The same, to be changed.
    pub fn edge_mut(&mut self, id: EdgeId) -> &mut Edge {
        &mut self.parts[part_of_edge(id)].edges[number(id)]
    }

    /// The traces of a part, dropped or not.
    pub fn traces_of(&self, part: usize) -> Range<TraceId> {
        let first = (part << NUMBER_BITS) as TraceId;
        first..first + self.parts[part].traces.len() as TraceId
    }

    /// The edges of a part.
    pub fn edges_of(&self, part: usize) -> Range<EdgeId> {
        let first = edge_id(part, 0);
        first..first + self.parts[part].edges.len() as EdgeId
    }

    /// The addresses of what usually runs in a part.
    pub fn code_of(&self, part: usize) -> Range<u64> {
        let start = self.arena.address_of((self.first[0] + part * self.size[0]) as u32);
        start..start + self.size[0] as u64
    }

    /// Empties a part, which nothing leads into any more.
    pub fn empty(&mut self, part: usize) {
        self.fault_sites.clear(part);
        let Part { used, traces, edges, instructions } = &mut self.parts[part];
        *used = [0; 2];
        traces.clear();
        edges.clear();
        self.instructions -= std::mem::take(instructions);
    }

    /// Guest instructions in all parts, those of dropped traces included.
    pub fn instructions(&self) -> usize {
        self.instructions
    }
}

/// The part that an edge is in.
pub const fn part_of_edge(id: EdgeId) -> usize {
    (id >> NUMBER_BITS) as usize - 1
}

const fn part_of(id: TraceId) -> usize {
    (id >> NUMBER_BITS) as usize
}

const fn number(id: u32) -> usize {
    id as usize & (MAX_NUMBER - 1)
}

const fn edge_id(part: usize, number: usize) -> EdgeId {
    ((part + 1) << NUMBER_BITS | number) as EdgeId
}
