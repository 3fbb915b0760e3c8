//! PVH, the direct boot ABI of Xen's HVM guests (Xen, docs/misc/pvh.pandoc): 32-bit protected mode without
//! paging, EBX at `hvm_start_info`.

mod start_info;

#[cfg(test)]
mod tests;

use viv_arch::{Gpr, VcpuState};
use viv_engine::GuestMemory;

use crate::error::BootError;
use crate::load::Loaded;
use crate::{flat, layout, map};

/// Writes what the ABI wants in memory, and gives vCPU 0's state.
pub fn prepare(memory: &GuestMemory, loaded: &Loaded) -> Result<VcpuState, BootError> {
    let info = start_info::build(layout::START_INFO, loaded)?;
    map::write(memory, "start info", layout::START_INFO.start, &info)?;

    let mut state = flat::protected_mode(loaded.entry);
    state.gpr[Gpr::Rbx as usize] = layout::START_INFO.start;
    Ok(state)
}
