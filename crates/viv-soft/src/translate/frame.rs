//! What translated code keeps in the CPU besides the guest's registers, and where everything is.
#![allow(unsafe_code, reason = "a hash is computed by the instruction that generated code uses")]

use std::arch::asm;
use std::mem::offset_of;

use viv_arch::{Segment, xsave};

use super::asm::{Mem, RSP};
use crate::cpu::Cpu;
use crate::hostexec::{ExecState, FpuState};
use crate::region::{self, JUMP_TARGETS, JumpTarget, TABLES, Tables};
use crate::tlb::{Entry, TLB_SIZE, View};
use crate::window::{WINDOW_PAGES, WindowTables};

/// The part of a CPU that belongs to translated code.
#[repr(C)]
#[derive(Debug)]
pub struct Frame {
    /// RSP of the function that entered translated code.
    pub host_rsp: u64,
    /// The linear address of the page whose code runs.
    pub page: u64,
    /// The arithmetic flags: AH of LAHF in bits 8 to 15, OF in bit 0.
    pub flags: u64,
    /// Where to go on.
    pub target: u64,
    /// The linear address of that, while a call stores where it returns to.
    pub linear: u64,
    /// Where the window of the CPU is, which generated code finds by the base of GS; 0 if there is none.
    pub window: u64,
    /// The TLB entry that was used so often that its page should be in the window: one more than its view, or 0, and its
    /// offset in the view's table.
    pub hot_view: u32,
    pub hot_entry: u32,
    /// The edge by which translated code was left, or 0.
    pub edge: u32,
    /// MXCSR of the host.
    pub host_mxcsr: u32,
    /// Whether the guest's vector registers are in the host's.
    pub vectors_live: u8,
    /// Whether the guest's x87 registers are in the host's.
    pub x87_live: u8,
    /// What FLDCW is to load.
    pub x87_control: u16,
    /// What the code that runs was translated for.
    pub mode: super::Mode,
    /// Whether an interrupt waits for IF to be set.
    pub interrupt_waits: u8,
    /// How many PAUSEs there are left until the thread lets others run.
    pub pauses: i32,
    /// The translation generation that all of this holds for.
    pub generation: u64,
    /// How often an address was looked up in the TLB.
    pub lookups: u64,
}

impl Default for Frame {
    fn default() -> Self {
        Self {
            host_rsp: 0,
            page: 0,
            flags: 0,
            target: 0,
            linear: 0,
            window: 0,
            hot_view: 0,
            hot_entry: 0,
            edge: 0,
            host_mxcsr: xsave::MXCSR_INIT,
            vectors_live: 0,
            x87_live: 0,
            x87_control: 0,
            mode: super::Mode::default(),
            interrupt_waits: 0,
            pauses: 0,
            generation: 0,
            lookups: 0,
        }
    }
}

/// The bits of a branch target's checksum from here on say where it is remembered, so that they are a distance in bytes
/// in the table.
const TARGET_SHIFT: u32 = size_of::<JumpTarget>().trailing_zeros();
/// These bits.
pub const TARGET_MASK: i32 = (JUMP_TARGETS as i32 - 1) << TARGET_SHIFT;

/// The bit in which the two places differ where a branch target may be remembered.
pub const OTHER_TARGET: i32 = 1 << TARGET_SHIFT;

/// The two places where branches to `address` may be remembered: the first is a part of its checksum, which generated code
/// computes, too.
pub fn target_places(address: u64) -> [usize; 2] {
    let first = target_index_from(0, address);
    [first, first ^ 1]
}

/// Where generated code looks when the byte that asks for attention is `seed`.
pub fn target_index_from(seed: u64, address: u64) -> usize {
    let mut hash = seed;
    // SAFETY: the instruction needs SSE4.2, without which there is no translator.
    unsafe {
        asm!("crc32 {hash}, {address}", hash = inout(reg) hash, address = in(reg) address,
            options(pure, nomem, nostack, preserves_flags));
    }
    (hash as usize & TARGET_MASK as usize) >> TARGET_SHIFT
}

const fn of_cpu(offset: usize) -> Mem {
    Mem::at(RSP, offset as i32)
}

const fn of_frame(offset: usize) -> Mem {
    of_cpu(offset_of!(Cpu, frame) + offset)
}

pub const HOST_RSP: Mem = of_frame(offset_of!(Frame, host_rsp));
pub const PAGE: Mem = of_frame(offset_of!(Frame, page));
pub const PACKED_FLAGS: Mem = of_frame(offset_of!(Frame, flags));
pub const TARGET: Mem = of_frame(offset_of!(Frame, target));
pub const LINEAR: Mem = of_frame(offset_of!(Frame, linear));
/// Set by other threads when there is something to look at.
pub const ATTENTION: Mem = of_cpu(region::ATTENTION);
pub const WINDOW: Mem = of_frame(offset_of!(Frame, window));
pub const HOT_VIEW: Mem = of_frame(offset_of!(Frame, hot_view));
pub const HOT_ENTRY: Mem = of_frame(offset_of!(Frame, hot_entry));
pub const EDGE: Mem = of_frame(offset_of!(Frame, edge));
pub const LOOKUPS: Mem = of_frame(offset_of!(Frame, lookups));
pub const HOST_MXCSR: Mem = of_frame(offset_of!(Frame, host_mxcsr));
pub const VECTORS_LIVE: Mem = of_frame(offset_of!(Frame, vectors_live));
pub const X87_LIVE: Mem = of_frame(offset_of!(Frame, x87_live));
pub const X87_CONTROL: Mem = of_frame(offset_of!(Frame, x87_control));

const FPU: usize = offset_of!(Cpu, exec) + offset_of!(ExecState, fpu);

/// The guest's x87 state and MXCSR, as FXSAVE has them; FIP, FDP and FOP of the x87 state, which are not what the host has.
pub const FX: Mem = fx(0);
pub const FIP: Mem = fx(xsave::FIP);
pub const FDP: Mem = fx(xsave::FDP);
pub const FOP: Mem = fx(xsave::FOP);
/// The guest's MXCSR.
pub const GUEST_MXCSR: Mem = fx(xsave::MXCSR);

const fn fx(offset: usize) -> Mem {
    of_cpu(FPU + offset_of!(FpuState, fx) + offset)
}

/// Guest vector register `number`.
pub const fn ymm(number: u8) -> Mem {
    of_cpu(FPU + offset_of!(FpuState, ymm) + 32 * number as usize)
}

/// The base of segment register `number`.
pub const fn segment_base(number: u8) -> Mem {
    of_cpu(offset_of!(Cpu, segments) + size_of::<Segment>() * number as usize + offset_of!(Segment, base))
}

const fn tlb(view: View, field: usize) -> i32 {
    (TABLES + offset_of!(Tables, tlb) + size_of::<Entry>() * TLB_SIZE * view as usize + field) as i32
}

/// The TLB of a view.
pub const fn tlb_table(view: View) -> i32 {
    tlb(view, 0)
}

/// The tag for reads or writes of the first TLB entry in a view.
pub const fn tlb_tag(view: View, write: bool) -> i32 {
    tlb(view, if write { offset_of!(Entry, write) } else { offset_of!(Entry, read) })
}

/// The host page of the first TLB entry in a view.
pub const fn tlb_host(view: View) -> i32 {
    tlb(view, offset_of!(Entry, host))
}

/// The heat of the first TLB entry in a view.
pub const fn tlb_heat(view: View) -> i32 {
    tlb(view, offset_of!(Entry, heat))
}

/// The tag for reads or writes of the window's first page in a view.
pub const fn window_tag(view: View, write: bool) -> i32 {
    let table = 2 * view as usize + write as usize;
    (TABLES + offset_of!(Tables, window) + offset_of!(WindowTables, tags) + 8 * WINDOW_PAGES * table) as i32
}

/// Where the linear address of code page `slot` is.
pub const fn page_slot(slot: u32) -> Mem {
    of_cpu(TABLES + offset_of!(Tables, pages) + 8 * slot as usize)
}

const fn target(table: usize, field: usize) -> i32 {
    let table = size_of::<JumpTarget>() * JUMP_TARGETS * table;
    (TABLES + offset_of!(Tables, targets) + table + field) as i32
}

/// Where the first target of a table is.
pub const fn target_linear(table: usize) -> i32 {
    target(table, offset_of!(JumpTarget, linear))
}

/// The host code for it.
pub const fn target_host(table: usize) -> i32 {
    target(table, offset_of!(JumpTarget, host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_branch_finds_its_target_while_something_waits() {
        // The checksum is linear: the difference is the same for all addresses.
        for address in [0, 0x40_1000, 0x7fff_ffff_f123, 0xffff_ffff_8100_0040] {
            assert_ne!(target_index_from(0, address), target_index_from(1, address));
        }
    }
}
