//! REP STOS and REP MOVS that stay within a page: the host's own, at host addresses.
//!
//! Whatever else there is to them, from page boundaries to the direction flag, is the interpreter's.

use std::mem::offset_of;

use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use viv_arch::{Rflags, paging};

use super::asm::{Label, Mem, RCX, RDI, RSI, RSP, alu, condition};
use super::emit::Emitter;
use super::frame;
use super::regs::{ADDRESS, SCRATCH};
use super::system::{NEG, SHL};
use super::trace::Item;
use crate::cpu::Cpu;

/// A string instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeated {
    /// Whether it copies, or else fills.
    moves: bool,
    /// The element's size as a power of two.
    shift: u8,
}

/// The second byte of RFLAGS.
const RFLAGS_HIGH: Mem = Mem::at(RSP, offset_of!(Cpu, exec.rflags) as i32 + 1);

/// What is translated here.
pub fn classify(i: &Instruction) -> Option<Repeated> {
    if !i.has_rep_prefix() {
        return None;
    }
    let to = i.op0_kind() == OpKind::MemoryESRDI;
    let (moves, size) = match i.mnemonic() {
        Mnemonic::Stosb => (false, 1),
        Mnemonic::Stosw => (false, 2),
        Mnemonic::Stosd => (false, 4),
        Mnemonic::Stosq => (false, 8),
        Mnemonic::Movsb => (true, 1),
        Mnemonic::Movsw => (true, 2),
        Mnemonic::Movsd => (true, 4),
        Mnemonic::Movsq => (true, 8),
        _ => return None,
    };
    let from = !moves
        || (i.op1_kind() == OpKind::MemorySegRSI
            && !matches!(i.memory_segment(), Register::FS | Register::GS));
    (to && from).then_some(Repeated { moves, shift: u8::trailing_zeros(size) as u8 })
}

impl Emitter<'_> {
    pub(super) fn repeated(&mut self, n: usize, item: &Item, what: Repeated) {
        let Repeated { moves, shift } = what;
        self.guard_flags(item.live);
        let miss = self.miss(n, self.after);
        self.asm.rm(false, &[0xf6], 0, RFLAGS_HIGH); // test byte
        self.asm.bytes(&[(Rflags::DF.bits() >> 8) as u8]);
        self.asm.jump_if(condition::NOT_EQUAL, miss);
        self.asm.alu_immediate(true, alu::CMP, RCX, paging::PAGE_SIZE as i32 >> shift);
        self.asm.jump_if(condition::ABOVE, miss);
        self.run_at(RDI, shift, true, miss);
        if moves {
            self.asm.store(frame::TARGET, ADDRESS);
            self.run_at(RSI, shift, false, miss);
        }
        self.run_size(shift);
        if moves {
            self.asm.alu(alu::ADD, RSI, SCRATCH);
            self.asm.store(frame::LINEAR, RSI);
            self.asm.copy(RSI, ADDRESS);
            self.asm.load(ADDRESS, frame::TARGET);
        }
        self.asm.alu(alu::ADD, SCRATCH, RDI);
        self.asm.copy(RDI, ADDRESS);
        if shift == 1 {
            self.asm.bytes(&[0x66]);
        }
        self.asm.bytes(&[0xf3]);
        if shift == 3 {
            self.asm.bytes(&[0x48]);
        }
        let opcode = if moves { 0xa4 } else { 0xaa };
        self.asm.bytes(&[opcode | u8::from(shift != 0)]);
        self.asm.copy(RDI, SCRATCH);
        if moves {
            self.asm.load(RSI, frame::LINEAR);
        }
    }

    /// How many bytes there are, into [`SCRATCH`].
    fn run_size(&mut self, shift: u8) {
        self.asm.copy(SCRATCH, RCX);
        self.asm.shift(true, SHL, SCRATCH, shift);
    }

    /// The host's address of the bytes at a linear address into [`ADDRESS`], or to `miss` if they are not in one page that
    /// the TLB knows.
    fn run_at(&mut self, linear: u8, shift: u8, write: bool, miss: Label) {
        self.run_size(shift);
        self.asm.rr(true, &[0xf7], NEG, SCRATCH);
        self.asm.lea(SCRATCH, Mem::at(SCRATCH, paging::PAGE_SIZE as i32));
        self.asm.copy(ADDRESS, linear);
        self.asm.call_to(self.thunks.lookup[self.mode.view() as usize][usize::from(write)]);
        self.asm.jump_if(condition::CARRY, miss);
    }
}
