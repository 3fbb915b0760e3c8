//! Guest RAM between guards.
#![allow(unsafe_code, reason = "maps memory for the guest with guards around it")]

use std::ptr;

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
use viv_arch::paging::PAGE_SIZE;
use viv_engine::GuestMemory;
use viv_engine::memory::PageRecord;
use vm_memory::bitmap::NewBitmap;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{GuestAddress, GuestRegionMmap};

use super::layout::{PLAY, PLAY_SIZE, SYSTEM_SIZE};

/// On both sides of each region: a page with a pattern, and behind it as much as 32-bit displacements of a few instructions
/// would hit that nothing may touch.
const CANARY: usize = PAGE_SIZE as usize;
const WALL: usize = 4 << 20;
/// What canaries hold.
const PATTERN: u8 = 0xc5;

/// Host memory for the guest's RAM, used for one machine after the other.
pub struct GuardedRam {
    regions: [Region; 2],
}

struct Region {
    phys: u64,
    size: usize,
    /// The whole mapping.
    base: *mut u8,
}

impl Region {
    fn new(phys: u64, size: u64) -> Self {
        let size = size as usize;
        let accessible = size + 2 * CANARY;
        // SAFETY: new mappings at addresses that the kernel chooses.
        let base = unsafe {
            let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
            rustix::mm::mmap_anonymous(ptr::null_mut(), accessible + 2 * WALL, ProtFlags::empty(), flags)
        };
        let base: *mut u8 = base.expect("the host has memory").cast();
        let region = Self { phys, size, base };
        // SAFETY: the part between the walls, which belongs to this object and that nobody uses yet.
        unsafe {
            let flags = MprotectFlags::READ | MprotectFlags::WRITE;
            rustix::mm::mprotect(base.add(WALL).cast(), accessible, flags).expect("the host has memory");
            for canary in region.canaries() {
                canary.write_bytes(PATTERN, CANARY);
            }
        }
        region
    }

    fn ram(&self) -> *mut u8 {
        self.base.wrapping_add(WALL + CANARY)
    }

    fn canaries(&self) -> [*mut u8; 2] {
        [self.base.wrapping_add(WALL), self.ram().wrapping_add(self.size)]
    }
}

impl Default for GuardedRam {
    fn default() -> Self {
        Self { regions: [Region::new(0, SYSTEM_SIZE), Region::new(PLAY, PLAY_SIZE)] }
    }
}

impl GuardedRam {
    /// The RAM for a new machine, all zeros. What had it before is gone.
    pub fn memory(&mut self) -> GuestMemory {
        let regions = self.regions.iter().map(|region| {
            // SAFETY: the RAM is mapped readable and writable, and no guest uses it any more.
            unsafe { region.ram().write_bytes(0, region.size) };
            let record = PageRecord::with_len(region.size);
            // SAFETY: the mapping outlives the machine, and is not unmapped by the region.
            let mapping = unsafe {
                MmapRegionBuilder::new_with_bitmap(region.size, record)
                    .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
                    .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE)
                    .with_raw_mmap_pointer(region.ram())
            };
            let mapping = mapping.build().expect("the mapping is one");
            GuestRegionMmap::new(mapping, GuestAddress(region.phys)).expect("the region fits")
        });
        GuestMemory::from_regions(regions.collect()).expect("the regions are apart")
    }

    /// All of it.
    pub fn contents(&self) -> Vec<u8> {
        self.regions
            .iter()
            .flat_map(|region| {
                // SAFETY: the RAM is mapped, and no machine runs.
                unsafe { std::slice::from_raw_parts(region.ram(), region.size) }.iter().copied()
            })
            .collect()
    }

    /// Whether what is around it is as it was.
    pub fn is_sound(&self) -> bool {
        self.regions.iter().flat_map(Region::canaries).all(|canary| {
            // SAFETY: canaries are mapped, and nobody writes them.
            unsafe { std::slice::from_raw_parts(canary, CANARY) }.iter().all(|&byte| byte == PATTERN)
        })
    }
}

/// The physical address of a byte of [`GuardedRam::contents`].
pub fn physical(offset: usize) -> u64 {
    let offset = offset as u64;
    if offset < SYSTEM_SIZE { offset } else { PLAY + offset - SYSTEM_SIZE }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: mapped by this object; whoever had it for a machine has dropped that.
        let _ = unsafe { rustix::mm::munmap(self.base.cast(), self.size + 2 * (CANARY + WALL)) };
    }
}
