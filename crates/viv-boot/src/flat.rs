//! The processor in 32-bit protected mode without paging, all segments flat: how PVH and Multiboot enter a kernel.

use viv_arch::{Cr0, DescriptorTable, Segment, SegmentRegister, VcpuState};

/// Selectors are the loader's choice, for the kernel loads its own GDT before it uses any.
const CODE: u16 = 0x08;
const DATA: u16 = 0x10;
/// A present, busy 32-bit TSS, as PVH wants it: base 0, limit 0x67.
const TASK: Segment = Segment { selector: 0, attributes: 0x8b, limit: 0x67, base: 0 };

/// A vCPU about to execute `entry`, with zero in all general registers.
pub fn protected_mode(entry: u64) -> VcpuState {
    let mut state = VcpuState::reset();
    state.segments = [Segment::data(DATA, 0); 6];
    state.segments[SegmentRegister::Cs as usize] = Segment::code32(CODE, 0);
    state.tr = TASK;
    state.gdtr = DescriptorTable { base: 0, limit: 0 };
    state.idtr = DescriptorTable { base: 0, limit: 0 };
    state.cr0 = Cr0::PE | Cr0::ET;
    state.gpr = [0; 16];
    state.rip = entry;
    state
}
