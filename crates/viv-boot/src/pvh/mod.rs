//! PVH, the direct boot ABI of Xen's HVM guests (Xen, docs/misc/pvh.pandoc): 32-bit protected mode without
//! paging, EBX at `hvm_start_info`.

mod start_info;

#[cfg(test)]
mod tests;

use viv_arch::{Cr0, DescriptorTable, Gpr, Segment, SegmentRegister, VcpuState};
use viv_engine::GuestMemory;

use crate::error::BootError;
use crate::load::Loaded;
use crate::{layout, map};

/// Selectors are the loader's choice, for the kernel loads its own GDT before it uses any.
const CODE: u16 = 0x08;
const DATA: u16 = 0x10;
/// A present, busy 32-bit TSS, as the ABI wants it: base 0, limit 0x67.
const TASK: Segment = Segment { selector: 0, attributes: 0x8b, limit: 0x67, base: 0 };

/// Writes what the ABI wants in memory, and gives vCPU 0's state.
pub fn prepare(memory: &GuestMemory, loaded: &Loaded) -> Result<VcpuState, BootError> {
    let info = start_info::build(layout::START_INFO, loaded)?;
    map::write(memory, "start info", layout::START_INFO.start, &info)?;

    let mut state = VcpuState::reset();
    state.segments = [Segment::data(DATA, 0); 6];
    state.segments[SegmentRegister::Cs as usize] = Segment::code32(CODE, 0);
    state.tr = TASK;
    state.gdtr = DescriptorTable { base: 0, limit: 0 };
    state.idtr = DescriptorTable { base: 0, limit: 0 };
    state.cr0 = Cr0::PE | Cr0::ET;
    state.gpr = [0; 16];
    state.gpr[Gpr::Rbx as usize] = layout::START_INFO.start;
    state.rip = loaded.entry;
    Ok(state)
}
