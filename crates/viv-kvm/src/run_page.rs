//! The page that a vCPU shares with KVM, `struct kvm_run`, mapped a second time.
//!
//! `kvm-ioctls` has a mapping of its own, which lives and is borrowed with the vCPU. This one is for other threads, and
//! for fields that `kvm-ioctls` does not show. Every access is a volatile or an atomic one of a plain number.
#![allow(unsafe_code, reason = "memory shared with the kernel")]

use std::mem::offset_of;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicU8, Ordering};

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use viv_engine::EngineError;

const SIZE: usize = 4096;
const UNION: usize = offset_of!(kvm_run, __bindgen_anon_1);

/// The page.
pub(crate) struct RunPage {
    base: NonNull<u8>,
}

// SAFETY: the pointer names a mapping that lives as long as the page does, and accesses need no exclusiveness.
unsafe impl Send for RunPage {}
// SAFETY: as above.
unsafe impl Sync for RunPage {}

impl RunPage {
    /// The page of a vCPU.
    pub(crate) fn new(vcpu: &VcpuFd) -> Result<Self, EngineError> {
        // SAFETY: the descriptor is open for as long as it is borrowed.
        let fd = unsafe { BorrowedFd::borrow_raw(vcpu.as_raw_fd()) };
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at a place of the kernel's choice.
        let base = unsafe { mmap(null_mut(), SIZE, rights, MapFlags::SHARED, fd, 0) };
        let base = base.map_err(|error| EngineError::Host {
            action: "map the page that a vCPU shares with KVM",
            source: error.into(),
        })?;
        NonNull::new(base.cast()).map(|base| Self { base }).ok_or_else(|| EngineError::Host {
            action: "map the page that a vCPU shares with KVM",
            source: std::io::Error::other("it is at address 0"),
        })
    }

    /// Makes KVM_RUN return at once, the present or the next, until this is undone.
    pub(crate) fn set_immediate_exit(&self, on: bool) {
        let offset = offset_of!(kvm_run, immediate_exit);
        // SAFETY: the field lies in the mapping, and bytes are aligned.
        let field = unsafe { &*self.base.as_ptr().add(offset).cast::<AtomicU8>() };
        field.store(on.into(), Ordering::SeqCst);
    }

    /// Has KVM_RUN return as soon as the guest takes interrupts of the 8259.
    pub(crate) fn request_interrupt_window(&self, on: bool) {
        let offset = offset_of!(kvm_run, request_interrupt_window);
        // SAFETY: the field lies in the mapping, and KVM reads it only during KVM_RUN.
        unsafe { self.base.as_ptr().add(offset).write_volatile(on.into()) }
    }

    /// Whether the guest took an interrupt of the 8259, when KVM_RUN returned last.
    pub(crate) fn is_ready_for_interrupt(&self) -> bool {
        self.byte(offset_of!(kvm_run, ready_for_interrupt_injection)) != 0
    }

    /// After KVM_EXIT_IO: bytes of one access; a repeated instruction may make several at once.
    pub(crate) fn io_size(&self) -> usize {
        self.byte(UNION + 1).into()
    }

    /// After KVM_EXIT_INTERNAL_ERROR: which one.
    pub(crate) fn internal_error(&self) -> u32 {
        u32::from_ne_bytes([0, 1, 2, 3].map(|n| self.byte(UNION + n)))
    }

    fn byte(&self, offset: usize) -> u8 {
        debug_assert!(offset < SIZE);
        // SAFETY: all callers name fields of `kvm_run`, which lies in the mapping.
        unsafe { self.base.as_ptr().add(offset).read_volatile() }
    }
}

impl Drop for RunPage {
    fn drop(&mut self) {
        // SAFETY: the mapping is this page's own, and nothing borrows from it any more.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), SIZE) };
    }
}
