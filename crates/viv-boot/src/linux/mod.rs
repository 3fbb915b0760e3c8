//! The 64-bit boot protocol of Linux (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol"): long mode,
//! identity-mapped, RSI at `boot_params`.
//!
//! The protocol is written for the kernel with its decompressor in front; the unpacked kernel's `startup_64`
//! is entered by that decompressor in the very same state, and so by us.

mod boot_params;
mod paging;

#[cfg(test)]
mod tests;

use viv_arch::{Cr0, Cr4, DescriptorTable, Efer, Gpr, Segment, SegmentRegister, VcpuState};
use viv_engine::GuestMemory;

use crate::error::BootError;
use crate::kernel::Kernel;
use crate::load::Loaded;
use crate::{layout, map};

/// `__BOOT_CS`.
const BOOT_CS: u16 = 0x10;
/// `__BOOT_DS`.
const BOOT_DS: u16 = 0x18;

/// Writes what the protocol wants in memory, and gives vCPU 0's state.
pub fn prepare(memory: &GuestMemory, kernel: &Kernel, loaded: &Loaded) -> Result<VcpuState, BootError> {
    let params = boot_params::build(kernel.setup_header(), loaded)?;
    map::write(memory, "boot parameters", layout::BOOT_PARAMS, &params)?;
    map::write(memory, "page tables", layout::PAGE_TABLES.start, &paging::identity())?;

    let code = Segment::code64(BOOT_CS, 0);
    let data = Segment::data(BOOT_DS, 0);
    let gdt = [0, 0, code.to_descriptor(), data.to_descriptor()].map(u64::to_le_bytes).concat();
    map::write(memory, "GDT", layout::GDT, &gdt)?;

    let mut state = VcpuState::reset();
    state.segments = [data; 6];
    state.segments[SegmentRegister::Cs as usize] = code;
    state.gdtr = DescriptorTable { base: layout::GDT, limit: (gdt.len() - 1) as u16 };
    state.idtr = DescriptorTable { base: 0, limit: 0 };
    state.cr0 = Cr0::PE | Cr0::ET | Cr0::PG;
    state.cr3 = layout::PAGE_TABLES.start;
    state.cr4 = Cr4::PAE;
    state.efer = Efer::LME | Efer::LMA;
    state.gpr = [0; 16];
    state.gpr[Gpr::Rsi as usize] = layout::BOOT_PARAMS;
    state.rip = loaded.entry;
    Ok(state)
}
