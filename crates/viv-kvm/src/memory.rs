//! Guest RAM as KVM's memory slots.
#![allow(unsafe_code, reason = "KVM is given addresses of this process")]

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use viv_engine::{EngineError, GuestMemory, memory};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use crate::error;

const PAGE_SHIFT: u64 = 12;

/// The slots of a machine, one for each region of its RAM in ascending order, and what was written in them.
pub(crate) struct Slots {
    memory: GuestMemory,
    /// Whether KVM records what the guest writes.
    logged: bool,
}

impl Slots {
    /// Gives `memory` to a machine.
    pub(crate) fn new(vm: &VmFd, memory: GuestMemory) -> Result<Self, EngineError> {
        let slots = Self { memory, logged: false };
        slots.set(vm, 0)?;
        Ok(slots)
    }

    fn set(&self, vm: &VmFd, flags: u32) -> Result<(), EngineError> {
        for (slot, region) in (0..).zip(self.memory.iter()) {
            let description = kvm_userspace_memory_region {
                slot,
                flags,
                guest_phys_addr: region.start_addr().0,
                memory_size: region.len(),
                userspace_addr: (**region).as_ptr() as u64,
            };
            // SAFETY: the region is mapped, and stays so as long as this handle to the memory, which its owner drops
            // after the machine.
            unsafe { vm.set_user_memory_region(description) }
                .map_err(error::host("give guest RAM to KVM"))?;
        }
        Ok(())
    }

    /// The pages written since the last call, by the guest or by devices.
    pub(crate) fn take_dirty(&mut self, vm: &VmFd) -> Result<Vec<u64>, EngineError> {
        if self.logged {
            self.collect_log(vm)?;
        } else {
            // From now on. What was written before must be somewhere in what the host has given.
            self.set(vm, KVM_MEM_LOG_DIRTY_PAGES)?;
            self.logged = true;
            self.collect_present()?;
        }
        Ok(memory::take_dirty_pages(&self.memory))
    }

    /// Adds what KVM has recorded to the record.
    fn collect_log(&self, vm: &VmFd) -> Result<(), EngineError> {
        for (slot, region) in (0..).zip(self.memory.iter()) {
            let size = usize::try_from(region.len()).unwrap_or(usize::MAX);
            let log =
                vm.get_dirty_log(slot, size).map_err(error::host("read KVM's record of written pages"))?;
            let record = memory::record(region);
            for (word, bits) in log.into_iter().enumerate() {
                for bit in (0..64).filter(|bit| bits & (1 << bit) != 0) {
                    record.note_write(word * 64 + bit);
                }
            }
        }
        Ok(())
    }

    /// Adds every page that the host has given any memory for to the record.
    fn collect_present(&self) -> Result<(), EngineError> {
        for region in self.memory.iter() {
            let record = memory::record(region);
            let pages = region.len() >> PAGE_SHIFT;
            (0..pages).for_each(|page| record.note_write(page as usize));
        }
        Ok(())
    }
}
