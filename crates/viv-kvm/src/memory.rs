//! Guest RAM as KVM's memory slots.
//!
//! KVM records what the guest writes from the first question for it on, not before: the record costs every machine that
//! has it large pages and a fault for each page written, and most machines are never asked. What was written until
//! then is somewhere in the memory that the host has given, and all of that is the first answer.
#![allow(unsafe_code, reason = "KVM is given addresses of this process, and the host advice about them")]

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::{VcpuFd, VmFd};
use rustix::mm::{Advice, madvise};
use viv_engine::memory::{PageRecord, present_in, record, take_dirty_pages};
use viv_engine::{EngineError, GuestMemory};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap};

use crate::dirty_ring::{self, DirtyRing};
use crate::error;

const PAGE_SIZE: u64 = 4096;

type Region = GuestRegionMmap<PageRecord>;

/// The slots of a machine, one for each region of its RAM and of files that it writes in ascending order, then one for each of
/// its read-only memory; and what was written in RAM.
pub(crate) struct Slots {
    memory: GuestMemory,
    rom: Option<GuestMemory>,
    /// Whether KVM records what the guest writes.
    recorded: bool,
    /// Where it does: in a ring of each vCPU, or in a log of each slot.
    rings: Option<Vec<DirtyRing>>,
}

impl Slots {
    /// Gives memory to a machine that has no vCPU yet.
    pub(crate) fn new(vm: &VmFd, memory: GuestMemory, rom: Option<GuestMemory>) -> Result<Self, EngineError> {
        let rings = dirty_ring::enable(vm).then(Vec::new);
        let slots = Self { memory, rom, recorded: false, rings };
        slots.regions().try_for_each(|(slot, region)| set(vm, slot, region, 0))?;
        slots.regions().for_each(|(_, region)| advise_large_pages(region));
        let first = slots.memory.iter().count() as u32;
        for (slot, region) in (first..).zip(slots.rom.iter().flat_map(GuestMemory::iter)) {
            set(vm, slot, region, KVM_MEM_READONLY)?;
        }
        Ok(slots)
    }

    /// A vCPU that the machine has got.
    pub(crate) fn add_vcpu(&mut self, vcpu: &VcpuFd) -> Result<(), EngineError> {
        if let Some(rings) = &mut self.rings {
            rings.push(DirtyRing::new(vcpu)?);
        }
        Ok(())
    }

    /// The regions that can be written, with the numbers of their slots.
    fn regions(&self) -> impl Iterator<Item = (u32, &Region)> {
        (0..).zip(self.memory.iter())
    }

    /// Those of them whose pages are reported: RAM.
    fn reported(&self) -> impl Iterator<Item = (u32, &Region)> {
        self.regions().filter(|(_, region)| record(region).is_machines())
    }

    /// The pages written since the last call, by the guest or by devices.
    pub(crate) fn take_dirty(&mut self, vm: &VmFd) -> Result<Vec<u64>, EngineError> {
        if self.recorded {
            self.collect(vm)?;
        } else {
            self.reported().try_for_each(|(slot, region)| set(vm, slot, region, KVM_MEM_LOG_DIRTY_PAGES))?;
            self.recorded = true;
            for (_, region) in self.reported() {
                note_present(region);
            }
        }
        Ok(take_dirty_pages(&self.memory))
    }

    /// Moves what KVM has recorded to the record that devices write to.
    pub(crate) fn collect(&mut self, vm: &VmFd) -> Result<(), EngineError> {
        let Some(rings) = &mut self.rings else { return self.collect_logs(vm) };
        let records: Vec<&PageRecord> = self.memory.iter().map(record).collect();
        for written in rings.iter_mut().flat_map(DirtyRing::take) {
            if let (Some(record), Ok(page)) =
                (records.get(written.slot as usize), usize::try_from(written.page))
            {
                record.note_write(page);
            }
        }
        dirty_ring::reset(vm)
    }

    fn collect_logs(&self, vm: &VmFd) -> Result<(), EngineError> {
        for (slot, region) in self.reported() {
            let size = usize::try_from(region.len()).unwrap_or(usize::MAX);
            let log =
                vm.get_dirty_log(slot, size).map_err(error::host("read KVM's record of written pages"))?;
            for (word, bits) in log.into_iter().enumerate().filter(|(_, bits)| *bits != 0) {
                for bit in (0..64).filter(|bit| bits & (1 << bit) != 0) {
                    record(region).note_write(word * 64 + bit);
                }
            }
        }
        Ok(())
    }
}

/// Gives a region to KVM as a slot, or changes the slot's flags.
fn set(vm: &VmFd, slot: u32, region: &Region, flags: u32) -> Result<(), EngineError> {
    let description = kvm_userspace_memory_region {
        slot,
        flags,
        guest_phys_addr: region.start_addr().0,
        memory_size: region.len(),
        userspace_addr: (**region).as_ptr() as u64,
    };
    // SAFETY: the region is mapped, and stays so for as long as its owner, the slots, lives, which is as long as the
    // machine.
    unsafe { vm.set_user_memory_region(description) }.map_err(error::host("give guest memory to KVM"))
}

/// Asks the host for large pages: guests touch their memory page by page, each of which is a fault otherwise.
fn advise_large_pages(region: &Region) {
    let len = usize::try_from(region.len()).unwrap_or(0);
    // SAFETY: advice about the region's own mapping that changes nothing of what it holds. A host that does not take it is
    // only slower.
    let _ = unsafe { madvise((**region).as_ptr().cast(), len, Advice::LinuxHugepage) };
}

/// Notes every page that the host has given memory for as written.
fn note_present(region: &Region) {
    for range in present_in(region) {
        for page in range.start / PAGE_SIZE..range.end.div_ceil(PAGE_SIZE) {
            record(region).note_write(page as usize);
        }
    }
}
