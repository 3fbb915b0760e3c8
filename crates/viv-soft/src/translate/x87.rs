//! x87 and MMX instructions: the host executes them, with the guest's x87 registers in its own.
//!
//! They are translated only while all x87 exceptions are masked, so that none is ever pending, and only where the
//! processor writes FDP and FOP for exceptions alone. Then of the pointers to the last instruction nothing but FIP
//! changes. It is stored by the code; the host's own, which is an address of generated code, is not kept when the
//! registers are stored ([`thunks`](super::thunks)).

use iced_x86::{Instruction, Mnemonic};

use super::asm::{Mem, alu, condition};
use super::emit::Emitter;
use super::frame;
use super::regs::SCRATCH;
use super::trace::{Host, Item, Kind};
use crate::hostexec::{FDP_ONLY_ON_EXCEPTIONS, FpuState, X87, x87_role};

/// Whether x87 instructions are translated in this state.
pub fn is_translated(fpu: &FpuState) -> bool {
    fpu.masks_x87_exceptions() && *FDP_ONLY_ON_EXCEPTIONS
}

/// What an x87 or MMX instruction is to the x87 unit, if it can be translated.
pub fn classify(i: &Instruction) -> Option<X87> {
    match x87_role(i, true) {
        // It stores the pointers.
        _ if i.mnemonic() == Mnemonic::Fnstenv => None,
        X87::SetsPointers => None,
        role => Some(role),
    }
}

/// Whether it is an MMX instruction that converts, by MXCSR, also what is in memory.
pub fn uses_mxcsr(i: &Instruction) -> bool {
    matches!(
        i.mnemonic(),
        Mnemonic::Cvtpd2pi | Mnemonic::Cvttpd2pi | Mnemonic::Cvtps2pi | Mnemonic::Cvttps2pi
    )
}

/// Whether it becomes the last instruction that FIP says.
fn computes(item: &Item) -> bool {
    matches!(item.kind, Kind::Host(Host { x87: X87::Computes, .. }))
}

impl Emitter<'_> {
    /// Stores FIP after instruction `n`, unless that is left to the next one.
    pub(super) fn note_x87(&mut self, n: usize) {
        let left = self.trace.items.get(n + 1).is_some_and(computes);
        if computes(&self.trace.items[n]) && !left {
            self.store_fip(n);
        }
    }

    /// Before instruction `n` is interpreted: stores FIP if that was left to it.
    pub(super) fn note_x87_before(&mut self, n: usize) {
        let items = &self.trace.items;
        if n > 0 && computes(&items[n]) && computes(&items[n - 1]) {
            self.store_fip(n - 1);
        }
    }

    fn store_fip(&mut self, n: usize) {
        let offset = self.trace.start as i32 + self.trace.items[n].instruction.ip() as i32;
        self.asm.load(SCRATCH, frame::PAGE);
        self.asm.lea(SCRATCH, Mem::at(SCRATCH, offset));
        self.asm.store(frame::FIP, SCRATCH);
    }

    /// FLDCW, if it does not unmask exceptions. The word is read once, for another CPU may write to it.
    pub(super) fn load_x87_control(&mut self, n: usize, item: &Item, from: Mem) {
        self.guard_flags(item.live);
        let unmasks = self.miss(n, self.after);
        self.asm.rm(false, &[0x0f, 0xb7], SCRATCH, from); // movzx r32, word
        self.asm.bytes(&[0x66]);
        self.asm.store_32(frame::X87_CONTROL, SCRATCH); // mov word
        self.asm.not_32(SCRATCH);
        self.asm.alu_immediate(false, alu::AND, SCRATCH, 0x3f);
        self.asm.jump_if(condition::NOT_EQUAL, unmasks);
        self.asm.rm(false, &[0xd9], 5, frame::X87_CONTROL); // fldcw
    }
}
