//! A debugger outside the guest.
//!
//! Its breakpoints for data are met as the guest's own are. Those for instructions cost nothing where they are not: code
//! is decoded so that a block begins at each place where one may be, with a [`GUARD`] before its first instruction. Blocks
//! know no linear addresses, so such a place is whatever has a breakpoint's offset in its page. No translation begins
//! there, nor reaches there.

use viv_arch::paging;
use viv_engine::{DebugControl, DebugStop};

use super::Breakpoints;
use crate::cpu::{Cpu, Exec, Fault, Pending};
use crate::op::{AddressKind, Op};

/// The most offsets that are guarded: those that were and are not any more make up the most of them.
const MOST_GUARDS: usize = 64;

/// What a debugger outside has set.
#[derive(Debug, Clone, Default)]
pub struct Outside {
    pub(super) breakpoints: Breakpoints,
    single_step: bool,
    /// What it is to be told after the present instruction.
    stop: Option<DebugStop>,
}

impl Outside {
    /// Takes over what is wanted from now on. The TLB must be emptied after it, for watched pages are kept out of it.
    pub fn set(&mut self, control: &DebugControl) {
        self.breakpoints = Breakpoints { address: control.addresses(), dr7: control.dr7() };
        self.single_step = control.single_step;
        self.stop = None;
    }

    /// Whether it wants to stop after each instruction.
    pub fn is_stepping(&self) -> bool {
        self.single_step
    }

    /// Notes that a step was made.
    pub fn note_step(&mut self) {
        if self.single_step {
            self.stop.get_or_insert(DebugStop::Step);
        }
    }

    /// Notes an access to `size` bytes at `address`, and says whether it is one to stop for.
    pub(super) fn note_access(&mut self, address: u64, size: u64, wanted: impl Fn(u64) -> bool) -> bool {
        let hits = self.breakpoints.range_hits(address, size, wanted);
        if hits != 0 {
            self.stop = Some(DebugStop::Breakpoint(hits.trailing_zeros() as usize));
        }
        hits != 0
    }

    /// The breakpoint for the instruction at `address`, if there is one.
    pub fn stop_at(&self, address: u64) -> Option<DebugStop> {
        match self.breakpoints.instruction_hits(address) {
            0 => None,
            hits => Some(DebugStop::Breakpoint(hits.trailing_zeros() as usize)),
        }
    }

    /// Whether it is to be told something.
    pub fn has_stop(&self) -> bool {
        self.stop.is_some()
    }

    /// Takes what it is to be told.
    pub fn take_stop(&mut self) -> Option<DebugStop> {
        self.stop.take()
    }
}

/// The offsets in pages at which blocks begin with a [`GUARD`].
#[derive(Debug, Default)]
pub struct Guards(Vec<u16>);

impl Guards {
    /// Whether code at this address, or one with the same offset in its page, has a guard.
    #[inline]
    pub fn contains(&self, address: u64) -> bool {
        !self.0.is_empty() && self.0.contains(&offset(address))
    }

    /// Takes up what a debugger wants. `true` if code that was decoded before lacks a guard.
    pub fn cover(&mut self, outside: &Outside) -> bool {
        let wanted = || outside.breakpoints.instructions().map(offset);
        if wanted().all(|offset| self.0.contains(&offset)) {
            return false;
        }
        if self.0.len() >= MOST_GUARDS {
            self.0.clear();
        }
        for offset in wanted() {
            if !self.0.contains(&offset) {
                self.0.push(offset);
            }
        }
        true
    }
}

fn offset(address: u64) -> u16 {
    (address & paging::PAGE_OFFSET) as u16
}

/// What stands before the first instruction of a block at a guarded offset: stops if a breakpoint is there.
pub const GUARD: Op = Op {
    run: guard,
    imm: 0,
    disp: 0,
    end: 0,
    len: 0,
    dst: 0,
    src: 0,
    base: 0,
    index: 0,
    scale: 0,
    segment: 0,
    address: AddressKind::Flat,
    sets_rip: false,
    aux: 0,
};

fn guard(cpu: &mut Cpu, _: &Op) -> Exec {
    match cpu.debug.outside.stop_at(cpu.code_address()) {
        None => {
            // It is no instruction of the guest's.
            cpu.retired = cpu.retired.wrapping_sub(1);
            Ok(())
        }
        Some(stop) => {
            cpu.pending = Some(Pending::Debug(stop));
            Err(Fault)
        }
    }
}
