//! From a trace to host code.
//!
//! The guest's arithmetic flags are in the host's, except where a check of an access would destroy flags that are still
//! needed: from there to the next instruction that has to do with flags they are saved in the
//! [`Frame`](super::Frame). A branch within the page passes flags that may be needed in the flags register, every other
//! branch saved: so they survive, at no cost, in code that has nothing to do with them. A trace therefore has several
//! entries (see [`Emitted`]).
//!
//! Whatever an instruction needs of memory is checked before it changes anything, so that one that misses, or faults
//! on the host, can be left to the interpreter as a whole.

use std::mem;

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::asm::{Asm, Label, Mem, RAX, RCX, RSI, condition};
use super::extents::{Extent, Extents};
use super::flags::Flags;
use super::frame;
use super::loops::Reach;
use super::operand::{Base, Content, Need, Operand, Place, stack};
use super::regs::{ADDRESS, GUEST_RSP, SCRATCH, host, slot};
use super::retreat;
use super::system::System;
use super::thunks::{Detour, Reason, Thunks};
use super::tools::{Room, Tools};
use super::trace::{Host, Item, Kind, Trace};
use super::{Mode, copy, rewrite};

/// A branch to a place outside the trace.
#[derive(Debug, Clone, Copy)]
pub struct EdgeDraft {
    /// Whether it leads to another page.
    pub leaves_page: bool,
    /// Where the displacement is that leads to the exit, and may lead to a trace. `None`: the branch only leaves to have
    /// events looked at.
    pub site: Option<u64>,
    /// Where the page number is, for a branch to another page.
    pub page_site: Option<u64>,
    /// The exit.
    pub exit: u64,
    /// Where it goes, relative to the page.
    pub target: i64,
}

/// Host code of a trace.
#[derive(Default)]
pub struct Emitted {
    /// What usually runs, which is entered from other pages at its beginning, and what seldom does.
    pub code: [Vec<u8>; 2],
    /// Where it is entered from its own page, with the flags in the flags register.
    pub entry_in_page: u64,
    pub edges: Vec<EdgeDraft>,
    /// Instructions that may fault on the host: where they are, and where to go then.
    pub fault_sites: Vec<(u64, u64)>,
}

/// What is emitted after the code that usually runs.
pub(super) enum Cold {
    /// The interpretation of an instruction.
    Interpret { label: Label, item: usize, flags_saved: bool, resume: Label },
    /// The copy of instructions in which nothing is known of their accesses.
    Retreat { first: usize, last: usize, flags_saved: bool, resume: Label },
    /// A branch to another page, where `live` flags are needed, which are in the flags register.
    Leap { label: Label, target: i64, live: Flags },
    /// Leaving by an edge.
    Exit { label: Label, edge: usize, flags_saved: bool },
    /// Saving the flags before the trace's start.
    SaveFlags { label: Label, resume: Label },
    /// What the rounds of a loop reach is not in one page that is known.
    TwoPages { label: Label, reach: Reach, checked: Label, resume: Label },
    /// Loading vector or x87 registers at the trace's start.
    Load { label: Label, thunk: u64, resume: Label },
}

/// A site and an exit before their labels are known.
pub(super) struct PendingEdge {
    pub leaves_page: bool,
    pub site: Option<u64>,
    pub page_site: Option<u64>,
    pub exit: Label,
    pub target: i64,
}

pub(super) struct Emitter<'a> {
    pub asm: Asm,
    pub trace: &'a Trace,
    pub page: &'a [u8],
    pub mode: Mode,
    pub thunks: &'a Thunks,
    pub tools: &'a mut Tools,
    pub cold: Vec<Cold>,
    pub edges: Vec<PendingEdge>,
    fault_sites: Vec<(u64, Label)>,
    /// Whether the flags are saved, instead of in the flags register.
    pub flags_saved: bool,
    /// Where the first instruction begins, and whether the flags are saved there.
    pub head: Label,
    pub head_saved: bool,
    /// Where it goes on after the present instruction, if that was interpreted.
    pub after: Label,
    /// Accesses that are checked together.
    pub extents: Extents,
    /// Where checks that fail lead, and whether code for that is being emitted.
    pub retreats: Vec<retreat::Entry>,
    pub in_retreat: bool,
    /// Whether all accesses of what is being emitted are known to be allowed.
    pub is_unchecked: bool,
    /// The guest register or page whose value [`ADDRESS`] is known to have, in such code.
    pub held: Option<Base>,
    /// Where a loop goes on behind each of its instructions, if that was interpreted.
    pub afters: Vec<Label>,
    /// Where the present instruction has what it needs of memory, and the copy of it may join it: the instruction, the
    /// place, and whether the flags are saved there.
    joins: Vec<(usize, Label, bool)>,
    /// The number of the first edge.
    first_edge: u32,
}

/// What is to be translated.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    pub trace: &'a Trace,
    /// The bytes of its page.
    pub page: &'a [u8],
    /// The slot of the page that it runs into, if it does.
    pub second: Option<u32>,
    pub mode: Mode,
}

/// Writes the code of a trace for these addresses. Its edges are numbered from `first_edge`. `None`: it cannot be
/// translated.
pub fn emit<'t>(
    Job { trace, page, second, mode }: Job<'_>,
    thunks: &Thunks,
    tools: &'t mut Tools,
    bases: [u64; 2],
    first_edge: u32,
) -> Option<&'t Emitted> {
    let mut room = mem::take(&mut tools.room);
    room.clear();
    let Room { mut asm, mut extents, cold, edges, fault_sites, retreats, joins } = room;
    asm.begin(bases);
    let head = asm.label();
    extents.find(trace, &mut tools.info);
    let mut emitter = Emitter {
        asm,
        trace,
        page,
        mode,
        thunks,
        tools,
        cold,
        edges,
        fault_sites,
        flags_saved: false,
        head,
        head_saved: trace.passes_flags(),
        after: head,
        extents,
        retreats,
        in_retreat: false,
        is_unchecked: false,
        held: None,
        afters: Vec::new(),
        joins,
        first_edge,
    };
    let entry_in_page = emitter.enter(second);
    if let Some(rounds) = &trace.rounds {
        emitter.rounds(rounds);
    }
    let mut n = 0;
    while n < trace.items.len() {
        let (first, last) = (n, emitter.extents.end_of(n));
        emitter.mode = trace.items[n].mode;
        while n <= last {
            for k in 0..emitter.extents.beginning_at(n).len() {
                let extent = emitter.extents.beginning_at(n)[k];
                emitter.check_extent(n, extent);
            }
            n += emitter.instructions(n);
        }
        emitter.end_region(first, last);
    }
    if let Some(last) = trace.items.last()
        && !last.ends
    {
        if let Kind::System(System::ChangeMode(mode)) = last.kind {
            emitter.mode = mode;
        }
        emitter.edge(last.instruction.next_ip(), last.live);
    }
    emitter.finish(entry_in_page)?;
    Some(&tools.emitted)
}

impl Emitter<'_> {
    /// The trace's start: flags are put where they are needed, the next page is looked for, vector registers are made
    /// live. Gives the entry from the same page.
    fn enter(&mut self, second: Option<u32>) -> Label {
        let live = self.trace.live_in();
        if live != 0 && !self.head_saved {
            self.flags_saved = true;
            self.restore_flags();
        }
        let body = self.asm.here();
        self.flags_saved = self.head_saved;
        let fragile = if self.head_saved { 0 } else { live };
        if let Some(slot) = second {
            self.check_next_page(slot, fragile);
        }
        // The way to load x87 registers spoils vector registers.
        if self.trace.x87 {
            self.make_live(frame::X87_LIVE, self.thunks.load_x87, fragile != 0);
        }
        if self.trace.vectors {
            self.make_live(frame::VECTORS_LIVE, self.thunks.load_vectors, fragile != 0);
        }
        self.asm.bind(self.head);
        if !self.head_saved {
            return body;
        }
        let label = self.asm.label();
        self.cold.push(Cold::SaveFlags { label, resume: body });
        label
    }

    /// Has registers loaded by `thunk` unless the byte at `live` says that they are. `fragile`: the flags are needed.
    fn make_live(&mut self, live: Mem, thunk: u64, fragile: bool) {
        let (label, resume) = (self.asm.label(), self.asm.label());
        if fragile {
            let load = self.asm.label();
            self.asm.copy(SCRATCH, RCX);
            self.asm.load_byte(RCX, live);
            self.asm.jump_if_rcx_is_zero(load);
            self.asm.copy(RCX, SCRATCH);
            self.asm.short_jump(resume);
            self.asm.bind(load);
            self.asm.copy(RCX, SCRATCH);
            self.asm.jump(label);
        } else {
            self.asm.compare_byte(live, 0);
            self.asm.jump_if(condition::EQUAL, label);
        }
        self.asm.bind(resume);
        self.cold.push(Cold::Load { label, thunk, resume });
    }

    /// The check for an extent that begins with instruction `n`.
    fn check_extent(&mut self, n: usize, Extent { registers, lowest, end, write, .. }: Extent) {
        let item = &self.trace.items[n];
        let size = (end - lowest) as usize;
        let need = Need { size, write, flags: item.flags.before(item.live) };
        let operand = registers.operand(lowest);
        let address = self.place(operand, false, false).address;
        // Where that is has been lost when the first access comes.
        let address = if address == Content::Page { address } else { Content::Nothing };
        let nowhere = Place { mem: Mem::in_window(ADDRESS, 0), address };
        self.reach(n, operand, nowhere, need, false);
    }

    /// Emits instruction `n`, or several from there on; gives how many.
    fn instructions(&mut self, n: usize) -> usize {
        if let Some(count) = self.stack_run(n) {
            return count;
        }
        self.after = self.afters.get(n).copied().unwrap_or_else(|| self.asm.label());
        self.item(n, &self.trace.items[n]);
        self.asm.bind(self.after);
        1
    }

    pub fn item(&mut self, n: usize, item: &Item) {
        match item.kind {
            Kind::Nothing => {}
            Kind::Host(host) => self.computation(n, item, host),
            Kind::Lea => self.load_effective_address(&item.instruction),
            Kind::Push => self.push(n, item),
            Kind::Pop => self.pop(n, item),
            Kind::Leave => self.leave(n, item),
            Kind::Branch => self.conditional(item),
            Kind::Jump => self.edge(item.instruction.near_branch_target(), item.live),
            Kind::Call => self.call(n, item),
            Kind::JumpIndirect | Kind::CallIndirect | Kind::Return => self.indirect(n, item),
            Kind::System(system) => self.system(n, item, system),
            Kind::Interpret => self.interpret(n, item),
        }
    }

    /// Puts the flags where a check does not destroy them, if any of `needed` are. [`SCRATCH`] is lost, here and in
    /// [`Emitter::restore_flags`].
    pub fn guard_flags(&mut self, needed: Flags) {
        if needed != 0 && !self.flags_saved {
            self.asm.copy(SCRATCH, RAX);
            self.asm.flags_to_ax();
            self.asm.store_32(frame::PACKED_FLAGS, RAX);
            self.asm.copy(RAX, SCRATCH);
            self.flags_saved = true;
        }
    }

    /// Puts the flags back into the flags register.
    pub fn restore_flags(&mut self) {
        if self.flags_saved {
            self.asm.copy(SCRATCH, RAX);
            self.asm.load_32(RAX, frame::PACKED_FLAGS);
            self.asm.flags_from_ax();
            self.asm.copy(RAX, SCRATCH);
            self.flags_saved = false;
        }
    }

    /// Before an instruction that has to do with flags, of which `needed` must be right.
    pub(super) fn settle_flags(&mut self, needed: Flags) {
        if needed != 0 {
            self.restore_flags();
        }
        self.flags_saved = false;
    }

    /// A place where instruction `n` is interpreted, with the flags where they are now; then goes on at `resume`.
    pub fn miss(&mut self, n: usize, resume: Label) -> Label {
        let label = self.asm.label();
        self.cold.push(Cold::Interpret { label, item: n, flags_saved: self.flags_saved, resume });
        label
    }

    /// An instruction that the host executes.
    fn computation(&mut self, n: usize, item: &Item, host: Host) {
        let i = &item.instruction;
        let needed = item.flags.before(item.live);
        let covered = self.is_unchecked || self.extents.covers(n);
        let memory = host.access.map(|access| {
            let need = Need { size: access.size, write: access.write, flags: needed };
            (self.place(Operand::of(i, self.trace.start), covered, rewrite::has_high_byte(i)), need)
        });
        let place = memory.map(|(place, _)| place.mem);
        if let Some(copy) = self.bytes_of(i).and_then(|bytes| copy::copy(i, bytes, place)) {
            if let Some((place, need)) = memory {
                self.reach(n, Operand::of(i, self.trace.start), place, need, covered);
            }
            if item.flags.touches {
                self.settle_flags(needed);
            }
            self.note_fault_site(n, host);
            self.asm.piece(copy);
            return self.note_x87(n);
        }
        let rewritten = rewrite::rewrite(i, place, &mut self.tools.info);
        let Some(rewritten) =
            rewritten.filter(|rewritten| self.tools.encoder.encode(&rewritten.instruction, 0).is_ok())
        else {
            self.note_x87_before(n);
            return self.interpret(n, item);
        };
        let encoded = self.tools.encoder.take_buffer();
        if let Some((place, need)) = memory {
            self.reach(n, Operand::of(i, self.trace.start), place, need, covered);
            if i.mnemonic() == Mnemonic::Fldcw {
                self.load_x87_control(n, item, place.mem);
                return self.put_back(encoded);
            }
        }
        if item.flags.touches {
            self.settle_flags(needed);
        }
        for (guest, scratch) in rewritten.loads() {
            self.asm.load(scratch, slot(guest));
        }
        if rewritten.legacy_address {
            self.asm.copy(SCRATCH, RSI);
            self.asm.copy(RSI, ADDRESS);
        }
        self.note_fault_site(n, host);
        self.asm.bytes(&encoded);
        if rewritten.legacy_address {
            self.asm.copy(RSI, SCRATCH);
        }
        for (guest, scratch) in rewritten.stores() {
            self.asm.store(slot(guest), scratch);
        }
        if rewritten.spoils(ADDRESS, self.held) {
            self.held = None;
        }
        self.note_x87(n);
        self.put_back(encoded);
    }

    /// The bytes of an instruction, if they are 64-bit code in the trace's page, and mean what they say.
    fn bytes_of(&self, i: &Instruction) -> Option<&[u8]> {
        if self.mode.is_narrow() || i.mnemonic() == Mnemonic::Fldcw {
            return None;
        }
        let start = self.trace.start + i.ip() as usize;
        self.page.get(start..start + i.len())
    }

    /// Notes that instruction `n`, which comes next, may fault.
    fn note_fault_site(&mut self, n: usize, host: Host) {
        if host.may_fault {
            let label = self.miss(n, self.after);
            self.fault_sites.push((self.asm.address(), label));
        }
    }

    /// Gives the encoder its buffer back.
    fn put_back(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.tools.encoder.set_buffer(buffer);
    }

    fn load_effective_address(&mut self, i: &Instruction) {
        let to = i.op0_register().full_register().number() as u8;
        let narrow = i.op0_register().size() == 4;
        let register = host(to).unwrap_or(ADDRESS);
        self.offset(i, register);
        if narrow && !self.mode.is_narrow() {
            self.asm.copy_32(register, register);
        }
        if host(to).is_none() {
            self.asm.store(slot(to), register);
        }
    }

    /// Where the code for instruction `n` has what it needs of memory, in [`ADDRESS`] or nowhere: the copy goes there, for
    /// the rest is the same. Says whether it did.
    fn joined(&mut self, n: usize) -> bool {
        if !self.in_retreat {
            let label = self.asm.here();
            self.joins.push((n, label, self.flags_saved));
            return false;
        }
        let Some(&(_, label, saved)) = self.joins.iter().find(|(item, ..)| *item == n) else { return false };
        self.settle(saved);
        self.asm.jump(label);
        true
    }

    fn call(&mut self, n: usize, item: &Item) {
        let to = self.reach_word(n, item, stack(-self.word()), true);
        self.push_return_address(&item.instruction, to);
        if !self.joined(n) {
            self.edge(item.instruction.near_branch_target(), item.live);
        }
    }

    /// Stores where `i` ends.
    fn push_return_address(&mut self, i: &Instruction, to: Mem) {
        let offset = self.trace.start as i32 + i.next_ip() as i32;
        self.asm.load(SCRATCH, frame::PAGE);
        self.lea_word(SCRATCH, Mem::at(SCRATCH, offset));
        self.store_word(to, SCRATCH);
        self.lea_word(GUEST_RSP, Mem::at(GUEST_RSP, -self.word()));
    }

    fn indirect(&mut self, n: usize, item: &Item) {
        let i = &item.instruction;
        let calls = item.kind == Kind::CallIndirect;
        if item.kind == Kind::Return || i.op0_kind() == OpKind::Memory {
            let from = if item.kind == Kind::Return { stack(0) } else { Operand::of(i, self.trace.start) };
            let from = self.reach_word(n, item, from, false);
            self.load_word(ADDRESS, from);
            if !calls && self.joined(n) {
                return;
            }
        } else {
            let guest = i.op0_register().number() as u8;
            match host(guest) {
                Some(register) if self.mode.is_narrow() => self.asm.copy_32(ADDRESS, register),
                Some(register) => self.asm.copy(ADDRESS, register),
                None => self.asm.load(ADDRESS, slot(guest)),
            }
        }
        match item.kind {
            Kind::CallIndirect => {
                self.guard_flags(item.live);
                let miss = self.miss(n, self.after);
                // The return address may go where the target was read: it is written when nothing can miss any more.
                let host = self.find_target(miss);
                self.asm.load(SCRATCH, host);
                self.asm.store(frame::TARGET, SCRATCH);
                self.asm.store(frame::LINEAR, ADDRESS);
                let to = self.reach_word(n, item, stack(-self.word()), true);
                self.push_return_address(i, to);
                self.asm.load(ADDRESS, frame::LINEAR);
                self.enter_page();
                self.asm.jump_indirect(frame::TARGET);
            }
            Kind::Return => self.jump_to_address(n, i.stack_pointer_increment()),
            _ => self.jump_to_address(n, 0),
        }
    }

    fn interpret(&mut self, n: usize, item: &Item) {
        if item.ends || self.in_retreat {
            self.detour(n, self.flags_saved, item.ends, self.after);
        } else {
            let label = self.miss(n, self.after);
            self.asm.jump(label);
        }
        self.flags_saved = false;
    }

    /// The call to the interpreter, and what it wants to know.
    fn detour(&mut self, n: usize, flags_saved: bool, ends: bool, resume: Label) {
        let live = usize::from(self.trace.vectors) | usize::from(self.trace.x87) << 1;
        let thunk = self.thunks.interpret[usize::from(flags_saved)][live];
        self.asm.call_to(thunk);
        let origin = self.asm.address();
        self.asm.distance(origin, resume);
        self.asm.bytes(&(self.trace.start as u16).to_le_bytes());
        let reason = match self.trace.items[n].kind {
            Kind::JumpIndirect | Kind::CallIndirect | Kind::Return => Reason::Branch,
            Kind::Interpret | Kind::System(_) => Reason::Instruction,
            _ => Reason::Access,
        };
        self.asm.bytes(&[u8::from(ends), reason as u8]);
        let op = &raw const self.trace.ops[n];
        self.asm.bytes(&(op as u64).to_le_bytes());
        debug_assert_eq!(self.asm.address() - origin, size_of::<Detour>() as u64);
    }

    /// A new edge, and the label of its exit.
    pub fn new_edge(&mut self, target: i64) -> (usize, Label) {
        let exit = self.asm.label();
        let edge = self.edges.len();
        self.edges.push(PendingEdge { leaves_page: false, site: None, page_site: None, exit, target });
        self.cold.push(Cold::Exit { label: exit, edge, flags_saved: self.flags_saved });
        (edge, exit)
    }

    fn finish(mut self, entry_in_page: Label) -> Option<()> {
        self.asm.go_cold();
        while let Some(cold) = self.cold.pop() {
            match cold {
                Cold::Retreat { first, last, flags_saved, resume } => {
                    self.copy_of_region(first, last, flags_saved, resume);
                }
                Cold::Interpret { label, item, flags_saved, resume } => {
                    self.asm.bind(label);
                    self.note_x87_before(item);
                    let ends = self.trace.items[item].ends;
                    self.detour(item, flags_saved, ends, resume);
                }
                Cold::Leap { label, target, live } => {
                    self.asm.bind(label);
                    self.flags_saved = false;
                    self.edge_to_other_page(target, live);
                }
                Cold::Exit { label, edge, flags_saved } => {
                    self.asm.bind(label);
                    let number = self.first_edge + edge as u32;
                    self.asm.store_immediate(false, frame::EDGE, number as i32);
                    self.asm.jump_to(self.thunks.exit[usize::from(flags_saved)]);
                }
                Cold::SaveFlags { label, resume } => {
                    self.asm.bind(label);
                    self.flags_saved = false;
                    self.guard_flags(super::flags::ALL);
                    self.asm.jump(resume);
                }
                Cold::TwoPages { label, reach, checked, resume } => {
                    self.asm.bind(label);
                    self.two_pages(reach, checked, resume);
                }
                Cold::Load { label, thunk, resume } => {
                    self.asm.bind(label);
                    self.asm.call_to(thunk);
                    self.asm.jump(resume);
                }
            }
        }
        let Self { mut asm, extents, cold, edges, fault_sites, retreats, joins, .. } = self;
        let emitted = &mut self.tools.emitted;
        asm.finish(&mut emitted.code)?;
        emitted.entry_in_page = asm.place_of(entry_in_page)?;
        emitted.edges.clear();
        for &PendingEdge { leaves_page, site, page_site, exit, target } in &edges {
            emitted.edges.push(EdgeDraft { leaves_page, site, page_site, exit: asm.place_of(exit)?, target });
        }
        emitted.fault_sites.clear();
        for &(at, label) in &fault_sites {
            emitted.fault_sites.push((at, asm.place_of(label)?));
        }
        self.tools.room = Room { asm, extents, cold, edges, fault_sites, retreats, joins };
        Some(())
    }
}
