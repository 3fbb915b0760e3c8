//! Running translated code, and coming back from it.
#![allow(unsafe_code, reason = "calls generated code, and is called by it")]

use std::mem;

use viv_arch::{Rflags, paging};

use super::frame::target_places;
use super::thunks::{Detour, Reason};
use super::{Mode, TraceId, Translator};
use crate::block::Block;
use crate::cpu::{Cpu, Shadow};
use crate::decode::{MAX_LENGTH, note_source};
use crate::hostexec::ArenaError;
use crate::region::{CpuRegion, TABLES, Tables};
use crate::translate::trace::{MAX_INSTRUCTIONS, Text, Trace};

/// How translated code was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// By an edge, whose number this is.
    Edge(u32),
    /// By an instruction that was interpreted, and after which RIP is right.
    Interpreted,
    /// An instruction faulted; the CPU has what is pending, and RIP is right.
    Fault,
}

/// The trace goes on.
const GOES_ON: u32 = 0;
const LEFT_BY_EDGE: u32 = 0;
const LEFT_INTERPRETED: u32 = 1;
const LEFT_FAULT: u32 = 2;
/// Not left: other translated code goes on.
pub const CONTINUES: u32 = 3;

/// Interprets an instruction of a trace for translated code.
pub extern "sysv64" fn interpret(region: *mut Cpu, at: *const Detour) -> u32 {
    // SAFETY: the thunk passes its CPU, which the run loop has lent to translated code, and the detour that it was called
    // from.
    let (cpu, detour) = unsafe { (&mut *region, at.read_unaligned()) };
    // SAFETY: a trace's instructions live as long as its code.
    let op = unsafe { &*detour.op };
    cpu.exec.rip = cpu.frame.page + u64::from(detour.start);
    cpu.exec.rflags = cpu.exec.rflags & !Rflags::ARITHMETIC.bits() | unpack(cpu.frame.flags);
    cpu.op_end = op;
    let counts = &mut cpu.counts;
    *match detour.reason {
        Reason::Access => &mut counts.access_detours,
        Reason::Branch => &mut counts.branch_detours,
        Reason::Instruction => &mut counts.instruction_detours,
    } += 1;
    let completed = (op.run)(cpu, op).is_ok();
    if !completed {
        cpu.stop_at(op);
        if !cpu.deliver_pending() {
            return LEFT_FAULT;
        }
    }
    let is_elsewhere = op.sets_rip || !completed;
    let mode = Mode::of(cpu);
    let holds =
        !cpu.op_end.is_null() && cpu.tlb.generation() == cpu.frame.generation && !cpu.is_called_away();
    let ends = is_elsewhere || detour.ends || mode != cpu.frame.mode || cpu.shadow != Shadow::None;
    if holds && !ends {
        cpu.frame.flags = pack(cpu.exec.rflags);
        cpu.frame.target = (at as u64).wrapping_add_signed(i64::from(detour.resume));
        return GOES_ON;
    }
    if !is_elsewhere {
        cpu.exec.rip = cpu.next_rip(op);
    }
    if !holds || !mode.is_translated() || mode.features() != cpu.frame.mode.features() {
        return LEFT_INTERPRETED;
    }
    if cpu.shared.inbox(cpu.index).attention() {
        return LEFT_INTERPRETED;
    }
    let linear = cpu.exec.rip;
    // SAFETY: the CPU lies in a region, with the tables behind it.
    let tables = unsafe { &*region.cast::<u8>().add(TABLES).cast::<Tables>() };
    let key = mode.target_key(linear);
    let targets = target_places(key).map(|place| tables.targets[mode.target_table()][place]);
    let Some(target) = targets.into_iter().find(|target| target.linear == key) else {
        return LEFT_INTERPRETED;
    };
    cpu.frame.mode = mode;
    cpu.frame.flags = pack(cpu.exec.rflags);
    cpu.frame.page = linear & !paging::PAGE_OFFSET;
    cpu.frame.target = target.host;
    CONTINUES
}

/// Arithmetic flags as translated code packs them. What is above the lowest 16 bits means nothing.
fn pack(rflags: u64) -> u64 {
    (rflags & 0xff) << 8 | rflags >> 11 & 1
}

fn unpack(flags: u64) -> u64 {
    (flags >> 8 & 0xff | (flags & 1) << 11) & Rflags::ARITHMETIC.bits()
}

impl Translator {
    /// Translates the trace at `phys`, where the interpreter has `block`, of at most `limit` instructions; `next` is the page
    /// behind, if that is known. `None`: there is nothing there that can be translated.
    ///
    /// # Errors
    /// When the memory for the interpreter's host-executed instructions is full: everything must be dropped.
    pub fn translate(
        &mut self,
        cpu: &mut Cpu,
        phys: u64,
        block: &Block,
        next: Option<u64>,
        mode: Mode,
        limit: usize,
    ) -> Result<Option<TraceId>, ArenaError> {
        let Ok(source) = note_source(cpu, phys) else {
            cpu.pending = None;
            return Ok(None);
        };
        let mut bytes = [0; 2 * paging::PAGE_SIZE as usize];
        let (page, rest) = bytes.split_at_mut(paging::PAGE_SIZE as usize);
        cpu.read_physical(source.phys, page);
        let mut len = paging::PAGE_SIZE as usize;
        let mut second = match &block.second {
            None => None,
            Some(second) => {
                let Ok(source) = note_source(cpu, second.phys) else {
                    cpu.pending = None;
                    return Ok(None);
                };
                cpu.read_physical(source.phys, &mut rest[..MAX_LENGTH]);
                len += MAX_LENGTH;
                Some(source)
            }
        };
        let start = (phys & paging::PAGE_OFFSET) as usize;
        let limit = limit.min(MAX_INSTRUCTIONS);
        let mut room = mem::take(&mut self.room);
        let known = self.traces_of(source.phys, mode);
        let is_known = |offset| known.is_some_and(|traces| traces.get(offset).is_some());
        // It may have been written to since the block was found.
        let ops = if source.is_same(&block.source) { &*block.ops } else { &[] };
        let text = Text { bytes: &bytes[..len], start, mode, ops, guards: &cpu.guards };
        let trace = Trace::decode(text, &mut cpu.host, limit, &mut room, is_known);
        self.room = room;
        let mut trace = trace?;
        if let Some(next) = next
            && second.is_none()
            && trace.runs_off_page()
            && let Ok(next) = note_source(cpu, next)
        {
            cpu.read_physical(next.phys, &mut bytes[paging::PAGE_SIZE as usize..]);
            let text = Text { bytes: &bytes, start, mode, ops, guards: &cpu.guards };
            let whole = Trace::decode(text, &mut cpu.host, limit, &mut self.room, |_| false)?;
            if !whole.items.is_empty() {
                trace = whole;
                second = Some(next);
            }
        }
        if trace.items.is_empty() {
            return Ok(None);
        }
        let id = self.add(source, second, &bytes[..paging::PAGE_SIZE as usize], mode, trace);
        if id.is_some()
            && let Some(map) = &cpu.shared.perf_map
        {
            map.add(self.parts.last(), mode, cpu.exec.rip);
        }
        Ok(id)
    }

    /// Runs translated code from the trace that is at RIP, until it leaves.
    pub fn run(&mut self, cpu: &mut CpuRegion, trace: TraceId, mode: Mode) -> Left {
        let Some(entry) = self.entry(trace) else { return Left::Interpreted };
        cpu.frame.page = cpu.exec.rip & !paging::PAGE_OFFSET;
        cpu.frame.mode = mode;
        cpu.frame.generation = cpu.tlb.generation();
        cpu.frame.flags = pack(cpu.exec.rflags);
        // SAFETY: the thunk is a function of this type, which runs translated code on the CPU in the region.
        let enter: extern "sysv64" fn(*mut Cpu, u64) -> u32 = unsafe { mem::transmute(self.enter_thunk()) };
        let left = enter(cpu.as_ptr(), entry);
        match left {
            LEFT_BY_EDGE => {
                cpu.counts.left_by_edge += 1;
                let edge = cpu.frame.edge;
                let rip = cpu.frame.page.wrapping_add(self.target(edge) as u64);
                cpu.exec.rip = if cpu.is_64bit() { rip } else { rip & 0xffff_ffff };
                cpu.exec.rflags = cpu.exec.rflags & !Rflags::ARITHMETIC.bits() | unpack(cpu.frame.flags);
                Left::Edge(edge)
            }
            LEFT_FAULT => {
                cpu.counts.left_by_fault += 1;
                Left::Fault
            }
            _ => {
                cpu.counts.left_interpreted += 1;
                Left::Interpreted
            }
        }
    }
}
