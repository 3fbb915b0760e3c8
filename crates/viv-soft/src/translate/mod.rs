//! The translator: hot guest code becomes host code.
//!
//! Guest and host have the same instruction set, so most instructions stay what they are. Their registers are
//! renamed where the host needs one for itself ([`regs`]), memory operands are checked and taken from the window of hot
//! pages ([`operand`]), branches lead to other translated code ([`control`]), and what is privileged or rare is left to
//! the interpreter, one instruction at a time ([`thunks`]).
//!
//! - [`trace`] decides what is translated together; [`flags`] finds out which flags matter where.
//! - [`emit`], [`operand`], [`retreat`], [`stack`], [`control`], [`copy`] and [`rewrite`] write the code, by way of [`asm`];
//!   [`extents`] finds the accesses that are checked together, [`loops`] the loops that are checked for several rounds;
//!   [`narrow`] makes 32-bit instructions 64-bit ones.
//! - [`system`] writes what only systems run often, [`string`] and [`bit`] what the host cannot run as it is, [`x87`]
//!   what goes with x87 instructions.
//! - [`frame`] says where everything is that generated code touches.
//! - [`cache`] finds translations, [`parts`] has their memory, [`links`] leads branches from one to the other, [`mapping`]
//!   says where they are now, by [`listed`]; [`evict`] drops them when the code that they were made from changes, and the
//!   oldest when there is no room.
//!
//! Generated code reaches guest RAM through the window and entries of the TLB, which the MMU fills after it has checked
//! rights, and the CPU's own region; nothing else. It depends on physical addresses, on the [`Mode`], and on the page's linear
//! address only through the frame.

mod asm;
mod bit;
mod cache;
mod control;
mod copy;
mod emit;
mod evict;
mod extents;
mod flags;
pub mod frame;
mod links;
mod listed;
mod loops;
mod mapping;
mod narrow;
mod operand;
mod parts;
mod regs;
mod retreat;
mod rewrite;
mod run;
mod stack;
mod string;
mod system;
mod thunks;
mod tools;
mod trace;
mod x87;

pub use cache::{Found, Translator};
#[cfg(test)]
pub use flags::keeping_all as keeping_all_flags;
pub use frame::Frame;
pub use parts::TraceId;
pub use run::{Left, interpret};

use viv_arch::{Cr0, Cr4, Segment, SegmentRegister, xsave};

use crate::cpu::{Bitness, Cpu};
use crate::region::NARROW_TARGETS;
use crate::tlb::View;

/// What a translation was made for, besides the bytes that it was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Mode(u16);

const SSE: u16 = 1 << 4;
const AVX: u16 = 1 << 5;
/// Code is interpreted: alignment is checked, or the privilege level is 1 or 2.
const ODD: u16 = 1 << 6;
const SMAP: u16 = 1 << 7;
/// 32-bit code in segments of all 4 GiB, of which only FS and GS have a base.
const FLAT: u16 = 1 << 8;
/// It can use FS, GS.
const FS: u16 = 1 << FS_BIT;
const GS: u16 = FS << 1;
const FS_BIT: u32 = 9;
const X87: u16 = 1 << 11;

impl Mode {
    /// The mode that a CPU is in.
    pub fn of(cpu: &Cpu) -> Self {
        let task_switched = cpu.cr0.contains(Cr0::TS);
        let sse = !task_switched && !cpu.cr0.contains(Cr0::EM) && cpu.cr4.contains(Cr4::OSFXSR);
        let enabled = xsave::SSE | xsave::AVX;
        let avx = !task_switched && cpu.cr4.contains(Cr4::OSXSAVE) && cpu.xcr0 & enabled == enabled;
        let x87 = sse && x87::is_translated(&cpu.exec.fpu);
        let flat = if cpu.bitness == Bitness::Bits32 { flat(cpu) } else { 0 };
        Self(
            cpu.bitness as u16
                | (cpu.view() as u16) << 2
                | flat
                | if sse { SSE } else { 0 }
                | if avx { AVX } else { 0 }
                | if x87 { X87 } else { 0 }
                | if cpu.tlb.checks_alignment || matches!(cpu.cpl, 1 | 2) { ODD } else { 0 }
                | if cpu.cr4.contains(Cr4::SMAP) { SMAP } else { 0 },
        )
    }

    /// All of it, in less than 12 bits.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// What can run, whatever the width and the view.
    pub const fn features(self) -> u16 {
        self.0 & (SSE | AVX | X87 | ODD | SMAP)
    }

    /// Whether SMAP keeps a supervisor from user pages unless RFLAGS.AC is set.
    pub const fn smap(self) -> bool {
        self.0 & SMAP != 0
    }

    /// The same with another view of memory.
    pub const fn with_view(self, view: View) -> Self {
        Self(self.0 & !(3 << 2) | (view as u16) << 2)
    }

    /// The width of the code.
    pub const fn bitness(self) -> Bitness {
        match self.0 & 3 {
            0 => Bitness::Bits16,
            1 => Bitness::Bits32,
            _ => Bitness::Bits64,
        }
    }

    /// How it looks at memory.
    pub const fn view(self) -> View {
        match self.0 >> 2 & 3 {
            0 => View::Supervisor,
            1 => View::SupervisorSmap,
            _ => View::User,
        }
    }

    /// Whether SSE instructions can run.
    pub const fn sse(self) -> bool {
        self.0 & SSE != 0
    }

    /// Whether AVX instructions can run.
    pub const fn avx(self) -> bool {
        self.0 & AVX != 0
    }

    /// Whether x87 instructions can run, and raise no exception.
    pub const fn x87(self) -> bool {
        self.0 & X87 != 0
    }

    /// Whether code for this mode is translated at all.
    pub const fn is_translated(self) -> bool {
        let known = matches!(self.bitness(), Bitness::Bits64) || self.0 & FLAT != 0;
        known && self.0 & ODD == 0
    }

    /// Whether addresses, the stack pointer and what is pushed have 32 bits.
    pub const fn is_narrow(self) -> bool {
        !matches!(self.bitness(), Bitness::Bits64)
    }

    /// The bytes of an address on the stack.
    pub const fn word(self) -> usize {
        if self.is_narrow() { 4 } else { 8 }
    }

    /// Whether 32-bit code can use what FS or GS names.
    pub const fn has(self, register: SegmentRegister) -> bool {
        let bit = match register {
            SegmentRegister::Fs => FS,
            SegmentRegister::Gs => GS,
            _ => FLAT,
        };
        self.0 & bit != 0
    }

    /// The table of branch targets that has those of this mode.
    pub const fn target_table(self) -> usize {
        if self.is_narrow() { NARROW_TARGETS } else { self.view() as usize }
    }

    /// What a branch target is found by in that table.
    pub const fn target_key(self, linear: u64) -> u64 {
        if !self.is_narrow() {
            return linear;
        }
        linear | ((self.0 >> FS_BIT & 3) as u64) << 32 | (self.view() as u64) << 34
    }
}

/// Whether it is as [`FLAT`] has it, and which of [`FS`] and [`GS`] hold.
fn flat(cpu: &Cpu) -> u16 {
    let segment = |register: SegmentRegister| &cpu.segments[register as usize];
    let [code, stack] = [SegmentRegister::Cs, SegmentRegister::Ss].map(segment);
    let is_flat = matches!(cpu.cpl, 0 | 3)
        && (code.base, code.limit) == (0, u32::MAX)
        && stack.attributes & Segment::DEFAULT_BIG != 0
        && [stack, segment(SegmentRegister::Ds), segment(SegmentRegister::Es)]
            .into_iter()
            .all(|data| data.base == 0 && is_whole(data));
    if !is_flat {
        return 0;
    }
    let bit = |register, bit| if is_whole(segment(register)) { bit } else { 0 };
    FLAT | bit(SegmentRegister::Fs, FS) | bit(SegmentRegister::Gs, GS)
}

/// Whether it is writable data, all 4 GiB from its base on.
const fn is_whole(segment: &Segment) -> bool {
    const KIND: u32 = 0b1110;
    const WRITABLE: u32 = 0b0010;
    let wanted = Segment::PRESENT | Segment::NON_SYSTEM | WRITABLE;
    let seen = Segment::UNUSABLE | Segment::PRESENT | Segment::NON_SYSTEM | KIND;
    segment.attributes & seen == wanted && segment.limit == u32::MAX
}
