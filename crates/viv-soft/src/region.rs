//! Where a CPU lives: in one mapping with what generated code reaches at fixed distances from it.
//!
//! While translated code runs, the host's RSP points at the [`Cpu`]. Below it is room for the calls that such code
//! makes and for a signal that comes meanwhile, and below that a page that faults; above it are the [`Tables`].
#![allow(unsafe_code, reason = "maps memory and keeps a value in it")]

use std::mem::offset_of;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
use viv_arch::paging;

use crate::attention::Attention;
use crate::cpu::Cpu;
use crate::tlb::{TLB_SIZE, TLB_TABLES, TlbTables};
use crate::window::WindowTables;

/// Code pages that can be entered from another page at a time.
pub const PAGE_SLOTS: usize = 8192;
/// Entries of a cache of indirect branch targets.
pub const JUMP_TARGETS: usize = 65536;

/// The tables of [`Tables::targets`].
pub const TARGET_TABLES: usize = 4;
/// That of 32-bit code.
pub const NARROW_TARGETS: usize = 3;

/// Where branches to address 0 are looked for, while nothing waits and while something does.
const NOT_ZERO: [usize; 4] = [0, 1, 0xc7d2, 0xc7d3];

/// What generated code looks up.
#[repr(C)]
pub struct Tables {
    pub tlb: TlbTables,
    /// By the number of a code page: less the linear address at which it is known to be mapped now, or
    /// [`NOT_MAPPED`].
    pub pages: [u64; PAGE_SLOTS],
    /// Targets of indirect branches: of 64-bit code for each view of memory, and of 32-bit code.
    pub targets: [[JumpTarget; JUMP_TARGETS]; TARGET_TABLES],
    /// Zeros, but for what the window writes there.
    pub window: WindowTables,
}

/// In [`Tables::pages`]: the page has no address. No page address is less one.
pub const NOT_MAPPED: u64 = 1;

/// Where an indirect branch goes.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct JumpTarget {
    /// The linear address, and above it in 32-bit code what else [`Mode`](crate::translate::Mode) says.
    pub linear: u64,
    /// The host code for it.
    pub host: u64,
}

impl JumpTarget {
    /// The entry for `linear`.
    pub const fn new(linear: u64, host: u64) -> Self {
        Self { linear, host }
    }

    /// The entry of place `index` that no branch takes: its address belongs to another place.
    pub fn none(index: usize) -> Self {
        Self::new(if NOT_ZERO.contains(&index) { 2 } else { 0 }, 0)
    }
}

/// A page.
#[repr(C, align(4096))]
struct Page([u8; paging::PAGE_SIZE as usize]);

#[repr(C)]
struct Region {
    cpu: Cpu,
    /// The vCPU's [`Attention`].
    attention: Page,
    tables: Tables,
}

/// Offset of the byte that asks for attention from the CPU.
pub const ATTENTION: usize = offset_of!(Region, attention);

/// Offset of the tables from the CPU.
pub const TABLES: usize = offset_of!(Region, tables);

/// Room below the CPU: a signal frame with all of the host's vector state, and a handler's own needs.
const STACK: usize = 256 << 10;

/// A CPU in its place.
pub struct CpuRegion {
    region: NonNull<Region>,
}

// SAFETY: the region is owned like a box.
unsafe impl Send for CpuRegion {}

impl CpuRegion {
    fn size() -> usize {
        let page = rustix::param::page_size();
        page + STACK + size_of::<Region>().next_multiple_of(page)
    }

    /// Maps a region with the vCPU's `attention`, and puts there the CPU that `make` returns for its TLB's tables.
    pub fn new(attention: &Attention, make: impl FnOnce(NonNull<TlbTables>) -> Cpu) -> std::io::Result<Self> {
        let page = rustix::param::page_size();
        // SAFETY: a new mapping at an address of the kernel's choice, whose first page loses its rights.
        let base = unsafe {
            let base = rustix::mm::mmap_anonymous(
                ptr::null_mut(),
                Self::size(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )?;
            rustix::mm::mprotect(base, page, MprotectFlags::empty())?;
            base
        };
        // SAFETY: the offset is inside the mapping, and pages are aligned more than the region demands.
        let region = unsafe { base.cast::<u8>().add(page + STACK).cast::<Region>() };
        // SAFETY: the fields are valid for writes, and all of them are written before the region is used; the page for
        // `attention` is one, because the region begins with one.
        unsafe {
            attention.map_at((&raw mut (*region).attention).cast())?;
            let tables = &raw mut (*region).tables;
            for (table, index) in (0..TLB_TABLES).flat_map(|t| (0..TLB_SIZE).map(move |i| (t, i))) {
                (&raw mut (*tables).tlb[table][index]).write(crate::tlb::Entry::empty(index));
            }
            (&raw mut (*tables).pages).write([NOT_MAPPED; PAGE_SLOTS]);
            // All others are zero, as the mapping is: most of the table need never be there.
            for (table, index) in (0..TARGET_TABLES).flat_map(|table| NOT_ZERO.map(|index| (table, index))) {
                (&raw mut (*tables).targets[table][index]).write(JumpTarget::none(index));
            }
            (&raw mut (*region).cpu).write(make(NonNull::new_unchecked(&raw mut (*tables).tlb)));
            Ok(Self { region: NonNull::new_unchecked(region) })
        }
    }

    /// The CPU's address, as generated code gets it.
    pub fn as_ptr(&mut self) -> *mut Cpu {
        self.region.as_ptr().cast()
    }

    /// The tables above the CPU, but for the TLB's and the window's, which the CPU has itself.
    pub fn tables(&mut self) -> *mut Tables {
        // SAFETY: the region is mapped.
        unsafe { &raw mut (*self.region.as_ptr()).tables }
    }

    /// The tables of the CPU's window.
    pub fn window_tables(&mut self) -> NonNull<WindowTables> {
        // SAFETY: the region is mapped, so the address is not null.
        unsafe { NonNull::new_unchecked(&raw mut (*self.tables()).window) }
    }
}

impl Deref for CpuRegion {
    type Target = Cpu;
    fn deref(&self) -> &Cpu {
        // SAFETY: `new` has written it.
        unsafe { &(*self.region.as_ptr()).cpu }
    }
}

impl DerefMut for CpuRegion {
    fn deref_mut(&mut self) -> &mut Cpu {
        // SAFETY: as for `deref`, and `&mut self` makes it unique.
        unsafe { &mut (*self.region.as_ptr()).cpu }
    }
}

impl Drop for CpuRegion {
    fn drop(&mut self) {
        let page = rustix::param::page_size();
        // SAFETY: the CPU was written by `new` and is not used after this; the mapping is that of `new`. A failure
        // leaks the memory, which is all that can be done about it.
        unsafe {
            ptr::drop_in_place(self.as_ptr());
            let base = self.region.as_ptr().cast::<u8>().sub(page + STACK);
            let _ = rustix::mm::munmap(base.cast(), Self::size());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translate::frame::target_index_from;

    #[test]
    fn no_branch_takes_an_empty_entry() {
        for index in 0..JUMP_TARGETS {
            let none = JumpTarget::none(index);
            let is_written = NOT_ZERO.contains(&index);
            assert!(is_written || (none.linear, none.host) == (0, 0), "what a new mapping holds");
            let address = none.linear;
            for waits in [0, 1] {
                assert_ne!(
                    target_index_from(waits, address) | 1,
                    index | 1,
                    "a branch to {address:#x}, {waits}"
                );
            }
        }
    }
}
