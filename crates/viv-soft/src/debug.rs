//! Debug registers (SDM vol. 3, 18.2).

use viv_arch::{Cr4, Exception, Vector};

use crate::cpu::Cpu;
use crate::mmu::Access;

mod breakpoints;
mod outside;

use breakpoints::{Breakpoints, CONDITION_ACCESS, CONDITION_PORT, CONDITION_WRITE};
pub use outside::{GUARD, Guards, Outside};

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
/// DR7 bit: general detect.
pub const DR7_GD: u64 = 1 << 13;

/// DR0 to DR7, and what a debugger outside the guest has set in their manner.
#[derive(Debug, Clone)]
pub struct DebugRegisters {
    pub dr6: u64,
    guest: Breakpoints,
    /// What the exception after the present instruction is to say, as bits of DR6: data breakpoints that it met,
    /// a single step.
    hits: u64,
    /// What belongs to the debugger outside.
    pub outside: Outside,
}

impl Default for DebugRegisters {
    fn default() -> Self {
        Self { dr6: DR6_FIXED, guest: Breakpoints::default(), hits: 0, outside: Outside::default() }
    }
}

impl DebugRegisters {
    /// Takes over DR0 to DR3, DR6 and DR7. What is outside the guest stays.
    pub fn load(&mut self, [a0, a1, a2, a3, dr6, dr7]: [u64; 6]) {
        self.guest.address = [a0, a1, a2, a3];
        self.set_dr6(dr6);
        self.set_dr7(dr7);
        self.hits = 0;
        self.outside.take_stop();
    }

    /// DR0 to DR3.
    pub fn addresses(&self) -> [u64; 4] {
        self.guest.address
    }

    /// DR0 to DR3, to be set. The TLB must be emptied after it, for watched pages are kept out of it.
    pub fn addresses_mut(&mut self) -> &mut [u64; 4] {
        &mut self.guest.address
    }

    /// DR7.
    pub fn dr7(&self) -> u64 {
        self.guest.dr7
    }

    /// Sets DR7. The TLB must be emptied after it, for watched pages are kept out of it.
    pub fn set_dr7(&mut self, value: u64) {
        self.guest.dr7 = (value & 0xffff_2bff) | breakpoints::DR7_FIXED;
    }

    /// Sets DR6.
    pub fn set_dr6(&mut self, value: u64) {
        self.dr6 = (value & 0xe00f) | DR6_FIXED;
    }

    /// Whether any data breakpoint is armed.
    #[inline]
    pub fn is_watching(&self) -> bool {
        self.guest.is_watching() || self.outside.breakpoints.is_watching()
    }

    /// Whether a data breakpoint lies in the page of `address`.
    #[inline]
    pub fn watches_page(&self, address: u64) -> bool {
        self.guest.watches_page(address) || self.outside.breakpoints.watches_page(address)
    }

    /// Whether the guest has armed any instruction breakpoint.
    #[inline]
    pub fn has_instruction_breakpoint(&self) -> bool {
        self.guest.has_instruction_breakpoint()
    }

    /// The DR6 bits of the guest's instruction breakpoints at `address`.
    pub fn instruction_hits(&self, address: u64) -> u64 {
        self.guest.instruction_hits(address)
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
        self.guest.dr7 &= !LOCAL_ENABLES;
    }

    /// Whether a debug exception or a stop is due.
    pub fn has_hits(&self) -> bool {
        self.hits != 0 || self.outside.has_stop()
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
        let wanted = |condition| match condition {
            CONDITION_WRITE => access == Access::Write,
            CONDITION_ACCESS => access != Access::Fetch,
            _ => false,
        };
        let hits = self.debug.guest.range_hits(address, size, wanted);
        self.debug.hits |= hits;
        let stops = self.debug.outside.note_access(address, size, wanted);
        self.end_block_if(hits != 0 || stops);
    }

    /// Notes an access to ports that a breakpoint may be for.
    #[inline]
    pub fn note_port(&mut self, port: u16, size: u64) {
        if self.debug.guest.is_armed() && self.cr4.contains(Cr4::DE) {
            let hits =
                self.debug.guest.range_hits(port.into(), size, |condition| condition == CONDITION_PORT);
            self.debug.hits |= hits;
            self.end_block_if(hits != 0);
        }
    }

    /// Has events looked for after the present instruction.
    fn end_block_if(&mut self, hit: bool) {
        if hit {
            self.op_end = std::ptr::null();
            self.attend();
        }
    }

    /// Sets DR6 for a debug exception and clears DR7.GD; gives the exception.
    pub fn debug_exception(&mut self, dr6_bits: u64) -> Exception {
        self.debug.dr6 = (self.debug.dr6 & !0xf) | DR6_FIXED | dr6_bits;
        self.debug.guest.dr7 &= !DR7_GD;
        Exception::new(Vector::Debug)
    }
}
