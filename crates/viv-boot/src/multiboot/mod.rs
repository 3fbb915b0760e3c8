//! Multiboot 0.6.96: 32-bit protected mode without paging, EAX with a magic number, EBX at the Multiboot information.

mod info;

#[cfg(test)]
pub(crate) mod tests;

use viv_arch::{Gpr, VcpuState};
use viv_engine::GuestMemory;

use crate::error::BootError;
use crate::initrd::Module;
use crate::load::Loaded;
use crate::{flat, layout, map};

/// What EAX holds (3.2).
const MAGIC: u64 = 0x2bad_b002;

/// Writes what the specification wants in memory, and gives vCPU 0's state.
pub fn prepare(
    memory: &GuestMemory,
    modules: &[Module<'_>],
    loaded: &Loaded,
) -> Result<VcpuState, BootError> {
    let place = layout::MULTIBOOT_INFO;
    let info = info::build(&place, modules, loaded)?;
    map::write(memory, "Multiboot information", place.start, &info)?;
    let mut state = flat::protected_mode(loaded.entry);
    state.gpr[Gpr::Rax as usize] = MAGIC;
    state.gpr[Gpr::Rbx as usize] = place.start;
    Ok(state)
}
