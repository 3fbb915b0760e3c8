//! The ring in which KVM tells of pages that a vCPU has written (Documentation/virt/kvm/api.rst, 8.29).
#![allow(unsafe_code, reason = "memory shared with the kernel, and an ioctl that kvm-ioctls has not")]

use std::mem::offset_of;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicU32, Ordering};

use kvm_bindings::{
    KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_DIRTY_LOG_PAGE_OFFSET, KVMIO, kvm_dirty_gfn, kvm_enable_cap,
};
use kvm_ioctls::{VcpuFd, VmFd};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use viv_engine::EngineError;
use vmm_sys_util::ioctl::ioctl;
use vmm_sys_util::ioctl_io_nr;

use crate::error;

ioctl_io_nr!(KVM_RESET_DIRTY_RINGS, KVMIO, 0xc7);

/// Entries of a ring, a power of two. KVM_RUN returns when it is nearly full.
const ENTRIES: usize = 16 << 10;
const SIZE: usize = ENTRIES * size_of::<kvm_dirty_gfn>();
const PAGE_SIZE: u64 = 4096;

/// Flags of an entry: KVM has filled it in...
const DIRTY: u32 = 1 << 0;
/// ... and we have read it.
const RESET: u32 = 1 << 1;

/// A written page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Written {
    /// The memory slot.
    pub(crate) slot: u32,
    /// The page within it.
    pub(crate) page: u64,
}

/// Has a machine without vCPUs use rings, if this KVM has them; says whether it does.
pub(crate) fn enable(vm: &VmFd) -> bool {
    let available = vm.check_extension_raw(KVM_CAP_DIRTY_LOG_RING_ACQ_REL.into());
    let request = kvm_enable_cap {
        cap: KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
        args: [SIZE as u64, 0, 0, 0],
        ..kvm_enable_cap::default()
    };
    usize::try_from(available).is_ok_and(|limit| limit >= SIZE) && vm.enable_cap(&request).is_ok()
}

/// Lets KVM use the entries again that were read, and look for further writes to their pages.
pub(crate) fn reset(vm: &VmFd) -> Result<(), EngineError> {
    // SAFETY: the request has no argument.
    let result = unsafe { ioctl(vm, KVM_RESET_DIRTY_RINGS()) };
    if result < 0 { Err(error::last("give the record of written pages back to KVM")) } else { Ok(()) }
}

/// The ring of one vCPU.
pub(crate) struct DirtyRing {
    entries: NonNull<kvm_dirty_gfn>,
    /// The entry to be read next, less whole rounds.
    next: usize,
}

// SAFETY: the pointer names a mapping that lives as long as the ring.
unsafe impl Send for DirtyRing {}

impl DirtyRing {
    /// The ring of a vCPU whose machine uses rings.
    pub(crate) fn new(vcpu: &VcpuFd) -> Result<Self, EngineError> {
        const ACTION: &str = "map a vCPU's record of written pages";
        // SAFETY: the descriptor is open for as long as it is borrowed.
        let fd = unsafe { BorrowedFd::borrow_raw(vcpu.as_raw_fd()) };
        let offset = u64::from(KVM_DIRTY_LOG_PAGE_OFFSET) * PAGE_SIZE;
        // SAFETY: a new mapping, at a place of the kernel's choice.
        let base = unsafe {
            mmap(null_mut(), SIZE, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, fd, offset)
        };
        let base = base.map_err(|error| EngineError::Host { action: ACTION, source: error.into() })?;
        let entries =
            NonNull::new(base.cast()).ok_or_else(|| error::invalid(ACTION, "it is at address 0"))?;
        Ok(Self { entries, next: 0 })
    }

    /// Takes what KVM has filled in.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = Written> + '_ {
        std::iter::from_fn(|| {
            // SAFETY: `next` is below `ENTRIES`.
            let entry = unsafe { self.entries.as_ptr().add(self.next) };
            let at = offset_of!(kvm_dirty_gfn, flags);
            // SAFETY: the field is aligned and lies in the mapping; KVM and we write it as an atomic.
            let flags = unsafe { &*entry.cast::<u8>().add(at).cast::<AtomicU32>() };
            if flags.load(Ordering::Acquire) != DIRTY {
                return None;
            }
            // SAFETY: the entry is ours, from its flag until we set the other.
            let kvm_dirty_gfn { slot, offset, .. } = unsafe { entry.read_volatile() };
            flags.store(RESET, Ordering::Release);
            self.next = (self.next + 1) % ENTRIES;
            Some(Written { slot, page: offset })
        })
    }
}

impl Drop for DirtyRing {
    fn drop(&mut self) {
        // SAFETY: the mapping is this ring's own.
        let _ = unsafe { munmap(self.entries.as_ptr().cast(), SIZE) };
    }
}
