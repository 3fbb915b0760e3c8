//! Debug registers (SDM vol. 3, 18.2).

use viv_arch::{Cr4, Exception, Vector};

use crate::cpu::Cpu;
use crate::mmu::Access;

/// DR6 bit: single step.
const DR6_BS: u64 = 1 << 14;
/// DR6 bit: a task switch to a TSS with the flag T.
const DR6_BT: u64 = 1 << 15;
/// DR7 bits that hold for one task: L0 to L3 and LE.
const LOCAL_ENABLES: u64 = 0x155;
/// DR6 bit: a debug register was touched while DR7.GD was set.
pub const DR6_BD: u64 = 1 << 13;
/// DR6 bits that read as ones.
const DR6_FIXED: u64 = 0xffff_0ff0;
/// DR7 bits that read as ones.
const DR7_FIXED: u64 = 0x400;
/// DR7 bit: general detect.
pub const DR7_GD: u64 = 1 << 13;

/// DR7 bits that switch breakpoints on, two for each.
const ENABLES: u64 = 0xff;
/// What a breakpoint waits for (DR7.R/W): an instruction at the address.
const CONDITION_FETCH: u64 = 0;
/// A write.
const CONDITION_WRITE: u64 = 1;
/// An access to a port, with CR4.DE.
const CONDITION_PORT: u64 = 2;
/// A read or a write.
const CONDITION_ACCESS: u64 = 3;

/// DR0 to DR7.
#[derive(Debug, Clone)]
pub struct DebugRegisters {
    pub address: [u64; 4],
    pub dr6: u64,
    dr7: u64,
    /// What the exception after the present instruction is to say, as bits of DR6: data breakpoints that it met,
    /// a single step.
    hits: u64,
}

impl Default for DebugRegisters {
    fn default() -> Self {
        Self { address: [0; 4], dr6: DR6_FIXED, dr7: DR7_FIXED, hits: 0 }
    }
}

impl DebugRegisters {
    /// DR7.
    pub fn dr7(&self) -> u64 {
        self.dr7
    }

    /// Sets DR7. The TLB must be emptied after it, for watched pages are kept out of it.
    pub fn set_dr7(&mut self, value: u64) {
        self.dr7 = (value & 0xffff_2bff) | DR7_FIXED;
    }

    /// Sets DR6.
    pub fn set_dr6(&mut self, value: u64) {
        self.dr6 = (value & 0xe00f) | DR6_FIXED;
    }

    fn condition(&self, n: usize) -> u64 {
        (self.dr7 >> (16 + 4 * n)) & 3
    }

    fn length(&self, n: usize) -> u64 {
        match (self.dr7 >> (18 + 4 * n)) & 3 {
            0 => 1,
            1 => 2,
            2 => 8,
            _ => 4,
        }
    }

    fn enabled(&self) -> impl Iterator<Item = usize> + '_ {
        (0..4).filter(|n| self.dr7 >> (2 * n) & 3 != 0)
    }

    /// Whether any data breakpoint is armed.
    #[inline]
    pub fn is_watching(&self) -> bool {
        self.dr7 & ENABLES != 0
            && self.enabled().any(|n| matches!(self.condition(n), CONDITION_WRITE | CONDITION_ACCESS))
    }

    /// Whether a data breakpoint lies in the page of `address`.
    #[inline]
    pub fn watches_page(&self, address: u64) -> bool {
        self.dr7 & ENABLES != 0
            && self.enabled().any(|n| {
                let start = self.address[n] & !(self.length(n) - 1);
                matches!(self.condition(n), CONDITION_WRITE | CONDITION_ACCESS)
                    && start >> 12 == address >> 12
            })
    }

    /// Whether any instruction breakpoint is armed.
    #[inline]
    pub fn has_instruction_breakpoint(&self) -> bool {
        self.dr7 & ENABLES != 0 && self.enabled().any(|n| self.condition(n) == CONDITION_FETCH)
    }

    /// The DR6 bits of instruction breakpoints at `address`.
    pub fn instruction_hits(&self, address: u64) -> u64 {
        self.enabled()
            .filter(|&n| self.condition(n) == CONDITION_FETCH && self.address[n] == address)
            .fold(0, |bits, n| bits | 1 << n)
    }

    /// Notes that a single-step trap is due.
    pub fn note_step(&mut self) {
        self.hits |= DR6_BS;
    }

    /// Notes that the trap after a task switch is due.
    pub fn note_task_switch(&mut self) {
        self.hits |= DR6_BT;
    }

    /// Switches off the breakpoints of the task that is left (SDM vol. 3, 18.2.4).
    pub fn leave_task(&mut self) {
        self.dr7 &= !LOCAL_ENABLES;
    }

    /// Whether a debug exception is due.
    pub fn has_hits(&self) -> bool {
        self.hits != 0
    }

    /// Takes what a debug exception that is due is to say.
    pub fn take_hits(&mut self) -> u64 {
        std::mem::take(&mut self.hits)
    }
}

impl Cpu {
    /// Notes an access that a data breakpoint may be for. The exception comes after the instruction.
    #[inline]
    pub fn note_access(&mut self, address: u64, size: u64, access: Access) {
        if self.debug.is_watching() {
            self.note_watched(address, size, access);
        }
    }

    #[cold]
    fn note_watched(&mut self, address: u64, size: u64, access: Access) {
        self.note_range(address, size, |condition| match condition {
            CONDITION_WRITE => access == Access::Write,
            CONDITION_ACCESS => access != Access::Fetch,
            _ => false,
        });
    }

    /// Notes an access to ports that a breakpoint may be for.
    #[inline]
    pub fn note_port(&mut self, port: u16, size: u64) {
        if self.debug.dr7 & ENABLES != 0 && self.cr4.contains(Cr4::DE) {
            self.note_range(u64::from(port), size, |condition| condition == CONDITION_PORT);
        }
    }

    fn note_range(&mut self, address: u64, size: u64, wanted: impl Fn(u64) -> bool) {
        let debug = &self.debug;
        let hits = debug
            .enabled()
            .filter(|&n| {
                let start = debug.address[n] & !(debug.length(n) - 1);
                let overlaps =
                    start.wrapping_sub(address) < size || address.wrapping_sub(start) < debug.length(n);
                overlaps && wanted(debug.condition(n))
            })
            .fold(0, |bits, n| bits | 1u64 << n);
        if hits != 0 {
            self.debug.hits |= hits;
            self.op_end = std::ptr::null();
            self.attend();
        }
    }

    /// Sets DR6 for a debug exception and clears DR7.GD; gives the exception.
    pub fn debug_exception(&mut self, dr6_bits: u64) -> Exception {
        self.debug.dr6 = (self.debug.dr6 & !0xf) | DR6_FIXED | dr6_bits;
        let dr7 = self.debug.dr7 & !DR7_GD;
        self.debug.dr7 = dr7;
        Exception::new(Vector::Debug)
    }
}
