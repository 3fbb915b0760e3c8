//! From linear addresses to physical ones (SDM vol. 3, chapter 4), whoever may use them.

use viv_arch::{Cr0, Cr4, Efer, VcpuState, paging};
use viv_engine::GuestMemory;
use vm_memory::{Bytes, GuestAddress};

/// Bits of an address in an entry of eight bytes.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Where `linear` lies for a vCPU in this state, if it is mapped.
pub(super) fn translate(memory: &GuestMemory, state: &VcpuState, linear: u64) -> Option<u64> {
    if !state.cr0.contains(Cr0::PG) {
        return Some(linear & 0xffff_ffff);
    }
    if state.efer.contains(Efer::LMA) {
        let levels = if state.cr4.contains(Cr4::LA57) { 5 } else { 4 };
        let sign_bits = 64 - (12 + 9 * levels);
        if ((linear << sign_bits).cast_signed() >> sign_bits).cast_unsigned() != linear {
            return None;
        }
        return walk(memory, state.cr3 & ADDRESS, levels, linear);
    }
    let linear = linear & 0xffff_ffff;
    if state.cr4.contains(Cr4::PAE) {
        let entry = entry(memory, (state.cr3 & 0xffff_ffe0) + (linear >> 30) * 8)?;
        return walk(memory, entry & ADDRESS, 2, linear);
    }
    walk32(memory, state, linear)
}

/// Tables of 512 entries, `levels` of them.
fn walk(memory: &GuestMemory, table: u64, levels: u32, linear: u64) -> Option<u64> {
    let mut table = table;
    for level in (0..levels).rev() {
        let shift = 12 + 9 * level;
        let entry = entry(memory, table + (linear >> shift & 0x1ff) * 8)?;
        if level == 0 || (level <= 2 && entry & paging::LARGE != 0) {
            let offset = (1 << shift) - 1;
            return Some(entry & ADDRESS & !offset | linear & offset);
        }
        table = entry & ADDRESS;
    }
    None
}

/// Two levels of tables of 1,024 entries.
fn walk32(memory: &GuestMemory, state: &VcpuState, linear: u64) -> Option<u64> {
    let entry = |address| {
        let entry: u32 = memory.read_obj(GuestAddress(address)).ok()?;
        Some(u64::from(entry)).filter(|entry| entry & paging::PRESENT != 0)
    };
    let directory = entry((state.cr3 & 0xffff_f000) + (linear >> 22) * 4)?;
    if directory & paging::LARGE != 0 && state.cr4.contains(Cr4::PSE) {
        let high = (directory >> 13 & 0xff) << 32;
        return Some(high | directory & 0xffc0_0000 | linear & 0x3f_ffff);
    }
    let page = entry((directory & 0xffff_f000) + (linear >> 12 & 0x3ff) * 4)?;
    Some(page & 0xffff_f000 | linear & 0xfff)
}

/// A present entry of eight bytes.
fn entry(memory: &GuestMemory, address: u64) -> Option<u64> {
    memory.read_obj(GuestAddress(address)).ok().filter(|entry: &u64| entry & paging::PRESENT != 0)
}
