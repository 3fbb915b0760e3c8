//! The state of one vCPU in a form that belongs to no engine.

mod v1;

use serde::{Deserialize, Serialize};

use crate::control::{Cr0, Cr4, Efer};
use crate::exception::Exception;
use crate::flags::Rflags;
use crate::segment::{DescriptorTable, Segment};
use crate::xsave;

pub use v1::VcpuStateV1;

/// Everything that makes a vCPU go on elsewhere as if nothing had happened.
///
/// An engine fills it from a stopped vCPU and takes it into a fresh one; what one engine saved, another
/// loads. Saved forms carry [`VcpuState::VERSION`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuState {
    /// General registers, indexed by [`crate::Gpr`].
    pub gpr: [u64; 16],
    /// The instruction pointer.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: Rflags,
    /// ES, CS, SS, DS, FS, GS.
    pub segments: [Segment; 6],
    /// LDTR.
    pub ldtr: Segment,
    /// TR.
    pub tr: Segment,
    /// GDTR.
    pub gdtr: DescriptorTable,
    /// IDTR.
    pub idtr: DescriptorTable,
    /// CR0.
    pub cr0: Cr0,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: Cr4,
    /// CR8: the task priority, 0 to 15.
    pub cr8: u64,
    /// XCR0.
    pub xcr0: u64,
    /// DR0 to DR3, DR6, DR7.
    pub debug: [u64; 6],
    /// IA32_EFER.
    pub efer: Efer,
    /// Every other MSR with state, as (number, value), sorted by number.
    pub msrs: Vec<(u32, u64)>,
    /// The XSAVE area, standard format, [`xsave::AREA_SIZE`] bytes or more.
    pub xsave: Vec<u8>,
    /// The local APIC's register page, 16 bytes a register, 4 in use (1 KiB).
    pub apic: Vec<u8>,
    /// What the guest's TSC shows at the moment of saving.
    pub tsc: u64,
    /// Events that are on their way to the vCPU.
    pub pending: PendingEvents,
    /// Whether it runs, halts or waits to be started.
    pub run_state: RunState,
    /// The page-directory-pointer-table entries, where PAE paging is on: the processor keeps them however memory changes
    /// (SDM vol. 3, 4.4.1). `None` there: they are read where CR3 says.
    pub pdptes: Option<[u64; 4]>,
    /// Another vCPU asked for this one to leave HLT (KVM_HC_KICK_CPU): the next HLT ends at once.
    pub woken: bool,
}

/// Events on their way to a vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PendingEvents {
    /// An NMI is pending.
    pub nmi: bool,
    /// NMIs are blocked until IRET.
    pub nmi_blocked: bool,
    /// The next instruction runs in the shadow of STI or MOV SS: no interrupt before it.
    pub interrupt_shadow: bool,
    /// What is delivered before the next instruction, whatever RFLAGS.IF says.
    pub accepted: Option<AcceptedEvent>,
}

/// An event that the processor has taken from its source and not delivered yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AcceptedEvent {
    /// An external interrupt with this vector: the local APIC has it in service, or the 8259 has been acknowledged.
    Interrupt(u8),
    /// An exception. RIP is where its handler returns to.
    Exception(Exception),
}

/// What a vCPU is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum RunState {
    /// Executing instructions.
    #[default]
    Running,
    /// In HLT until an interrupt.
    Halted,
    /// An application processor before its start-up IPI.
    WaitForSipi,
}

impl VcpuState {
    /// Version of the saved form. [`VcpuStateV1`] is the one before.
    pub const VERSION: u16 = 2;

    /// The state after power-on or INIT (SDM vol. 3, table 10-1).
    #[must_use]
    pub fn reset() -> Self {
        let data = Segment { selector: 0, attributes: 0x93, limit: 0xffff, base: 0 };
        let code = Segment { selector: 0xf000, attributes: 0x9b, limit: 0xffff, base: 0xffff_0000 };
        let mut area = vec![0; xsave::AREA_SIZE];
        area[xsave::FCW..xsave::FCW + 2].copy_from_slice(&0x40u16.to_le_bytes());
        area[xsave::MXCSR..xsave::MXCSR + 4].copy_from_slice(&xsave::MXCSR_INIT.to_le_bytes());
        let mut gpr = [0; 16];
        gpr[crate::Gpr::Rdx as usize] = 0x600;
        Self {
            gpr,
            rip: 0xfff0,
            rflags: Rflags::RESERVED_1,
            segments: [data, code, data, data, data, data],
            ldtr: Segment { selector: 0, attributes: 0x82, limit: 0xffff, base: 0 },
            tr: Segment { selector: 0, attributes: 0x8b, limit: 0xffff, base: 0 },
            gdtr: DescriptorTable { base: 0, limit: 0xffff },
            idtr: DescriptorTable { base: 0, limit: 0xffff },
            cr0: Cr0::ET | Cr0::NW | Cr0::CD,
            cr2: 0,
            cr3: 0,
            cr4: Cr4::empty(),
            cr8: 0,
            xcr0: xsave::X87,
            debug: [0, 0, 0, 0, 0xffff_0ff0, 0x400],
            efer: Efer::empty(),
            msrs: Vec::new(),
            xsave: area,
            apic: Vec::new(),
            tsc: 0,
            pending: PendingEvents::default(),
            run_state: RunState::Running,
            pdptes: None,
            woken: false,
        }
    }
}
