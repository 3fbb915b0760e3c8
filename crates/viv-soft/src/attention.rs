//! The byte that makes a vCPU look for events.
//!
//! It has a page of its own, which is mapped twice: other threads reach it through the vCPU's inbox, generated code at a
//! fixed distance from the CPU.
#![allow(unsafe_code, reason = "maps a page, and again where it is told to")]

use std::ffi::c_void;
use std::io;
use std::ops::Deref;
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicBool;

use rustix::mm::{MapFlags, MremapFlags, ProtFlags};
use viv_arch::paging;

const SIZE: usize = paging::PAGE_SIZE as usize;

/// The byte: whether there is something to look at.
#[derive(Debug)]
pub struct Attention(NonNull<AtomicBool>);

// SAFETY: it is a reference to an atomic, whose page it owns.
unsafe impl Send for Attention {}
// SAFETY: as above.
unsafe impl Sync for Attention {}

impl Attention {
    /// One that is not set.
    ///
    /// # Errors
    /// When the host has no memory for it.
    pub fn new() -> io::Result<Self> {
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let page = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), SIZE, protection, flags)? };
        NonNull::new(page.cast()).map(Self).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    /// Puts its page at `place`, too.
    ///
    /// # Errors
    /// When the host cannot map it.
    ///
    /// # Safety
    /// `place` must be the beginning of a page that belongs to the caller and holds nothing.
    pub unsafe fn map_at(&self, place: *mut c_void) -> io::Result<()> {
        let flags = MremapFlags::MAYMOVE;
        // SAFETY: nothing of a shared mapping is moved if its old size is 0; what is replaced is the caller's.
        unsafe { rustix::mm::mremap_fixed(self.0.as_ptr().cast(), 0, SIZE, flags, place)? };
        Ok(())
    }
}

impl Deref for Attention {
    type Target = AtomicBool;
    fn deref(&self) -> &AtomicBool {
        // SAFETY: the page is mapped as long as `self` lives, and any byte that is written there is a bool.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for Attention {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and nobody has a reference any more. A failure leaks the page.
        let _ = unsafe { rustix::mm::munmap(self.0.as_ptr().cast(), SIZE) };
    }
}
