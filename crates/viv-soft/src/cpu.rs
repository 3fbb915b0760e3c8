//! The state of one software CPU, as the interpreter works on it.
//!
//! [`Cpu`] is what every instruction handler gets. It knows registers, the MMU and events; it does not know
//! how blocks are found (`vcpu`) or how they came to be (`decode`, `lower`).
#![allow(unsafe_code, reason = "registers are addressed by byte offsets that `lower` computed")]

use std::sync::Arc;

use viv_arch::state::AcceptedEvent;
use viv_arch::{Cr0, Cr4, DescriptorTable, Efer, Exception, Rflags, Segment, SegmentRegister, Vector};
use viv_engine::{DebugStop, Platform, Translations};

use crate::access::NOT_CANONICAL;
use crate::apic::LocalApic;
use crate::debug::{DebugRegisters, Guards};
use crate::hostexec::ExecState;
use crate::msr::Msrs;
use crate::op::Op;
use crate::ops::host::HostCode;
use crate::ram::{Int, Ram};
use crate::steal::StealClock;
use crate::tlb::Tlb;
use crate::torture::Torturer;
use crate::translate::Frame;
use crate::tsc::GuestTsc;
use crate::vm::Shared;

/// An instruction did not complete; why is in [`Cpu::pending`].
#[derive(Debug)]
pub struct Fault;

/// What an instruction handler returns.
pub type Exec = Result<(), Fault>;

/// Why an instruction did not complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pending {
    /// It raised an exception.
    Exception(Exception),
    /// It switched tasks, and the new task raised an exception before its first instruction.
    InNewTask(Exception),
    /// It is to be started again after events were looked at: a repeated string instruction between two
    /// iterations.
    Restart,
    /// It needs something that this CPU does not have.
    Unsupported(String),
    /// The processor shut down.
    TripleFault,
    /// A breakpoint of the debugger outside is there.
    Debug(DebugStop),
}

/// What waits until the next instruction has run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shadow {
    /// Nothing.
    #[default]
    None,
    /// Interrupts, after STI.
    Interrupts,
    /// Interrupts and debug exceptions, after MOV SS and POP SS (SDM vol. 3, 6.8.3).
    Everything,
}

/// The width of instructions and default operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Bitness {
    /// Real mode and 16-bit segments.
    Bits16,
    /// 32-bit segments.
    Bits32,
    /// Long mode proper.
    Bits64,
}

/// One CPU.
#[repr(C)]
pub struct Cpu {
    /// General, flag, vector and x87 registers. While a block runs, `exec.rip` is where the block begins.
    pub exec: ExecState,
    /// What translated code keeps here.
    pub frame: Frame,
    /// The block's end: handlers cut it short when what follows is outdated.
    pub op_end: *const Op,
    pub tlb: Tlb,
    pub ram: Arc<Ram>,

    pub segments: [Segment; 6],
    pub ldtr: Segment,
    pub tr: Segment,
    pub gdtr: DescriptorTable,
    pub idtr: DescriptorTable,
    pub cr0: Cr0,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: Cr4,
    pub xcr0: u64,
    pub efer: Efer,
    pub msrs: Msrs,
    pub debug: DebugRegisters,
    /// Where code that is decoded gets a guard for a breakpoint.
    pub guards: Guards,
    pub cpl: u8,
    pub bitness: Bitness,

    pub pending: Option<Pending>,
    pub shadow: Shadow,
    /// The present instruction is followed by a single-step trap: TF was set when it began.
    pub stepping: bool,
    pub halted: bool,
    /// Another vCPU wants this one out of HLT: the next one ends at once.
    pub woken: bool,
    pub nmi_blocked: bool,
    pub nmi_pending: bool,
    /// Waiting for a start-up IPI.
    pub wait_for_sipi: bool,
    /// What a state said to be delivered before anything else.
    pub accepted: Option<AcceptedEvent>,

    pub apic: LocalApic,
    pub tsc: GuestTsc,
    pub steal: StealClock,
    /// What the alarm was last set to.
    pub armed: Option<u64>,
    /// The host-executed instructions of decoded blocks.
    pub host: HostCode,
    pub platform: Arc<dyn Platform>,
    pub shared: Arc<Shared>,
    pub index: u32,
    /// The memory operand of an instruction that runs on the host, where guest RAM cannot be reached directly.
    pub bounce: Box<Bounce>,
    /// Instructions completed.
    pub retired: u64,
    /// What the translator's figures have from here.
    pub counts: Translations,
    /// Whoever does the torture that was asked for.
    pub torturer: Option<Torturer>,
    /// PAE paging's page-directory-pointer-table entries, once they were loaded (SDM vol. 3, 4.4.1).
    pub pdptes: Option<[u64; 4]>,
    /// The bits of a guest-physical address that reach memory: all but bit 20 while the A20 gate is closed. Whoever
    /// changes it drops all translations.
    pub address_lines: u64,
    /// The width of guest-physical addresses (MAXPHYADDR), as CPUID tells it.
    pub physical_bits: u32,
}

/// A buffer for a memory operand at any alignment.
#[repr(C, align(64))]
pub struct Bounce(pub [u8; 1024]);

impl Cpu {
    /// Raises `exception`.
    #[cold]
    #[inline(never)]
    pub fn raise<T>(&mut self, exception: Exception) -> Result<T, Fault> {
        self.pending = Some(Pending::Exception(exception));
        Err(Fault)
    }

    /// Raises #GP(0).
    #[cold]
    pub fn gp0<T>(&mut self) -> Result<T, Fault> {
        self.raise(Exception::gp(0))
    }

    /// Raises #UD.
    #[cold]
    pub fn ud<T>(&mut self) -> Result<T, Fault> {
        self.raise(Exception::ud())
    }

    /// Reads the register part at byte `offset` of the register file.
    #[inline(always)]
    pub fn get<T: Int>(&self, offset: u8) -> T {
        debug_assert!(offset < 128);
        // SAFETY: `lower` makes offsets below 128 only, and a part never leaves its register.
        unsafe { (&raw const self.exec).cast::<u8>().add(offset as usize).cast::<T>().read_unaligned() }
    }

    /// Writes the register part at byte `offset`: 32-bit writes clear the upper half, narrower ones keep it.
    #[inline(always)]
    pub fn put<T: Int>(&mut self, offset: u8, value: T) {
        debug_assert!(offset < 128);
        // SAFETY: as for `get`.
        unsafe {
            let p = (&raw mut self.exec).cast::<u8>().add(offset as usize);
            if T::SIZE == 4 {
                p.cast::<u64>().write_unaligned(value.to_u64());
            } else {
                p.cast::<T>().write_unaligned(value);
            }
        }
    }

    /// General register `index`, all of it.
    #[inline(always)]
    pub fn reg(&self, index: viv_arch::Gpr) -> u64 {
        self.exec.gpr[index as usize]
    }

    /// The arithmetic flags and all others.
    #[inline(always)]
    pub fn flags(&self) -> u64 {
        self.exec.rflags
    }

    /// Replaces the arithmetic flags.
    #[inline(always)]
    pub fn set_arithmetic(&mut self, flags: u64) {
        self.exec.rflags = (self.exec.rflags & !Rflags::ARITHMETIC.bits()) | flags;
    }

    /// Whether `flag` is set.
    #[inline(always)]
    pub fn flag(&self, flag: Rflags) -> bool {
        self.exec.rflags & flag.bits() != 0
    }

    /// The linear address of the next instruction.
    #[inline]
    pub fn code_address(&self) -> u64 {
        match self.bitness {
            Bitness::Bits64 => self.exec.rip,
            _ => self.exec.rip.wrapping_add(self.segments[1].base) & 0xffff_ffff,
        }
    }

    /// Where the page after the one at `linear` begins, for an instruction that runs into it.
    pub fn next_code_page(&self, linear: u64) -> u64 {
        let next = (linear | viv_arch::paging::PAGE_OFFSET).wrapping_add(1);
        if self.is_64bit() { next } else { next & 0xffff_ffff }
    }

    /// RIP after the instruction.
    #[inline(always)]
    pub fn next_rip(&self, op: &Op) -> u64 {
        let rip = self.exec.rip.wrapping_add(u64::from(op.end));
        if self.bitness == Bitness::Bits64 { rip } else { rip & 0xffff_ffff }
    }

    /// RIP of the instruction.
    #[inline]
    pub fn this_rip(&self, op: &Op) -> u64 {
        let rip = self.exec.rip.wrapping_add(u64::from(op.end)).wrapping_sub(u64::from(op.len));
        if self.bitness == Bitness::Bits64 { rip } else { rip & 0xffff_ffff }
    }

    /// Makes RIP and the exception right after an instruction that did not complete.
    #[cold]
    #[inline(never)]
    pub fn stop_at(&mut self, op: &Op) {
        if matches!(self.pending, Some(Pending::InNewTask(_))) {
            return;
        }
        self.exec.rip = self.this_rip(op);
        if !matches!(self.pending, Some(Pending::Restart)) {
            // A trap comes only after an instruction that completes.
            self.debug.take_hits();
            self.debug.outside.take_stop();
        }
        if let Some(Pending::Exception(exception)) = &mut self.pending
            && exception.vector == Vector::GeneralProtection
            && exception.address == NOT_CANONICAL
            && op.segment == SegmentRegister::Ss as u8
        {
            *exception = Exception::new(Vector::StackFault);
        }
    }

    /// Whether the processor is in long mode, compatibility mode included.
    pub fn long_mode(&self) -> bool {
        self.efer.contains(Efer::LMA)
    }

    /// Whether RIP, RSP and descriptors have 64 bits.
    pub fn is_64bit(&self) -> bool {
        self.bitness == Bitness::Bits64
    }

    /// Makes the run loop look for events before the next block.
    pub fn attend(&self) {
        self.shared.inbox(self.index).raise();
    }

    /// Recomputes what follows from CS, CR0, CR4, EFER, RFLAGS.AC and the privilege level.
    pub fn update_mode(&mut self) {
        let code = &self.segments[1];
        self.bitness = if self.long_mode() && code.attributes & Segment::LONG != 0 {
            Bitness::Bits64
        } else if code.attributes & Segment::DEFAULT_BIG != 0 {
            // Leaving protected mode does not touch CS: its width stays until something else does.
            Bitness::Bits32
        } else {
            Bitness::Bits16
        };
        self.update_mmu_mode();
    }

    /// Fails with #GP(0) above privilege level 0.
    pub fn require_cpl0(&mut self) -> Exec {
        if self.cpl == 0 { Ok(()) } else { self.gp0() }
    }
}
