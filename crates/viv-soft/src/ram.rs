//! Guest RAM as the CPU reaches it.
//!
//! The CPU keeps host addresses of guest pages in its TLB, so it needs what `vm-memory` hides. All accesses
//! are single machine instructions in `asm!`: other vCPUs, devices and the guest's own ideas of sharing may
//! touch the same bytes at any time, and the processor's own rules are exactly the rules that the guest
//! expects.
#![allow(unsafe_code, reason = "guest RAM is reached by host address")]

use std::arch::asm;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap};
use viv_arch::paging;
use viv_engine::memory::{GuestMemory, PageRecord, record};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

/// The host's view of all guest RAM.
pub struct Ram {
    regions: Box<[Region]>,
    /// Keeps the mappings and records alive that the regions point into.
    _memory: [Option<GuestMemory>; 2],
}

struct Region {
    start: u64,
    len: u64,
    host: *mut u8,
    record: *const PageRecord,
    writable: bool,
    /// What is mapped there, to be mapped elsewhere too, and from which offset.
    file: Option<(Arc<File>, u64)>,
}

// SAFETY: the pointers name mappings that live as long as `_memory`, and every access through them is a machine
// instruction that needs no exclusive access.
unsafe impl Send for Ram {}
// SAFETY: as above.
unsafe impl Sync for Ram {}

/// A page of guest RAM.
#[derive(Clone, Copy)]
pub struct RamPage<'a> {
    /// Where it lies in the host.
    pub host: *mut u8,
    /// Its region's record.
    pub record: &'a PageRecord,
    /// Its number in that record.
    pub index: usize,
    /// Whether the guest may write it.
    pub writable: bool,
}

impl RamPage<'_> {
    /// Where its code generation lies.
    pub fn generation_cell(&self) -> &AtomicU32 {
        &self.record.generations()[self.index]
    }
}

impl Ram {
    /// A view of `memory`, and of `rom`, which the guest cannot write.
    pub fn new(memory: &GuestMemory, rom: Option<&GuestMemory>) -> Self {
        let writable = memory.iter().map(|region| (region, true));
        let fixed = rom.into_iter().flat_map(GuestMemory::iter).map(|region| (region, false));
        let mut parts: Vec<_> = writable.chain(fixed).collect();
        // RAM is asked for most, the largest part of it more than others.
        parts.sort_by_key(|(region, _)| (!record(region).is_machines(), std::cmp::Reverse(region.len())));
        let regions: Box<[Region]> = parts
            .into_iter()
            .map(|(region, writable)| Region {
                start: region.start_addr().0,
                len: region.len(),
                host: (**region).as_ptr(),
                record: record(region),
                writable,
                file: region.file_offset().map(|file| (Arc::clone(file.arc()), file.start())),
            })
            .collect();
        for region in &regions {
            // Guests touch their memory page by page, each of which is a fault for the host unless its pages are large.
            // SAFETY: advice about the region's own mapping that changes nothing of what it holds. A host that does not
            // take it is only slower.
            let _ = unsafe { madvise(region.host.cast(), region.len as usize, Advice::LinuxHugepage) };
        }
        Self { regions, _memory: [Some(memory.clone()), rom.cloned()] }
    }

    /// The page that holds guest-physical address `phys`, if it is memory.
    #[inline]
    pub fn page(&self, phys: u64) -> Option<RamPage<'_>> {
        let region = self.regions.iter().find(|region| phys.wrapping_sub(region.start) < region.len)?;
        let offset = (phys - region.start) & !0xfff;
        Some(RamPage {
            // SAFETY: `offset` is inside the mapping.
            host: unsafe { region.host.add(offset as usize) },
            // SAFETY: the record lives as long as `_memory`.
            record: unsafe { &*region.record },
            index: (offset >> 12) as usize,
            writable: region.writable,
        })
    }

    /// The page that holds guest-physical address `phys`, if it is memory that the guest may write.
    #[inline]
    pub fn writable_page(&self, phys: u64) -> Option<RamPage<'_>> {
        self.page(phys).filter(|page| page.writable)
    }

    /// Whether guest page `frame` can be written with no word to its record.
    pub fn is_plain(&self, frame: u32) -> bool {
        self.writable_page(u64::from(frame) << 12).is_some_and(|page| page.record.is_plain(page.index))
    }

    /// Maps `count` guest pages from `phys` on at `at` as well; says whether they are.
    ///
    /// # Safety
    /// Nobody depends on what is mapped at `at` for as many pages.
    pub unsafe fn map_pages(&self, at: *mut u8, phys: u64, count: usize) -> bool {
        let len = (count as u64) << 12;
        let region = self.regions.iter().find(|region| phys.wrapping_sub(region.start) < region.len);
        let Some(Region { start, len: size, writable, file: Some((file, offset)), .. }) = region else {
            return false;
        };
        if phys - start + len > *size {
            return false;
        }
        let rights = if *writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: the caller's contract.
        unsafe { mmap(at.cast(), len as usize, rights, flags, file, offset + (phys - start)) }.is_ok()
    }

    /// Reads a naturally aligned value at a guest-physical address.
    pub fn read<T: Int>(&self, phys: u64) -> Option<T> {
        debug_assert_eq!(phys % size_of::<T>() as u64, 0);
        let page = self.page(phys)?;
        // SAFETY: an aligned value does not leave its page.
        Some(unsafe { T::load(page.host.add((phys & 0xfff) as usize)) })
    }

    /// Replaces a page-table entry of 4 or 8 bytes if it still holds `old`; says whether it did.
    pub fn update_entry<T: Int>(&self, phys: u64, old: T, new: T) -> bool {
        // An entry in read-only memory stays as it is, which nobody can tell from one that was written.
        let Some(page) = self.writable_page(phys) else { return self.read::<T>(phys) == Some(old) };
        page.record.note_write(page.index);
        let (old, new) = (old.to_u64(), new.to_u64());
        let at = phys & paging::PAGE_OFFSET & !(T::SIZE - 1);
        let found: u64;
        // SAFETY: entries are aligned, so this is inside the page.
        unsafe {
            let p = page.host.add(at as usize);
            if T::SIZE == 4 {
                asm!("lock cmpxchg [{p}], {new:e}",
                    p = in(reg) p, new = in(reg) new, inout("rax") old => found, options(nostack));
            } else {
                asm!("lock cmpxchg [{p}], {new}",
                    p = in(reg) p, new = in(reg) new, inout("rax") old => found, options(nostack));
            }
        }
        found == old
    }
}

/// The integer types that instructions work on.
pub trait Int: Copy + Eq + 'static {
    /// Size in bytes.
    const SIZE: u64 = size_of::<Self>() as u64;
    /// Size in bits.
    const BITS: u32 = size_of::<Self>() as u32 * 8;

    /// The low bits of `value`.
    fn from_u64(value: u64) -> Self;
    /// Zero-extended.
    fn to_u64(self) -> u64;
    /// Sign-extended.
    fn sign_extended(self) -> u64;

    /// Reads with one instruction.
    ///
    /// # Safety
    /// `p` is valid for reads of the type's size; it need not be aligned, and others may write there.
    unsafe fn load(p: *const u8) -> Self;

    /// Writes with one instruction.
    ///
    /// # Safety
    /// `p` is valid for writes of the type's size; it need not be aligned, and others may access it.
    unsafe fn store(p: *mut u8, value: Self);
}

macro_rules! int {
    ($type:ty, $signed:ty, $load:literal, $store:literal, $class:ident, $wide:ty) => {
        impl Int for $type {
            #[inline(always)]
            fn from_u64(value: u64) -> Self {
                value as Self
            }
            #[inline(always)]
            fn to_u64(self) -> u64 {
                u64::from(self)
            }
            #[inline(always)]
            fn sign_extended(self) -> u64 {
                self as $signed as i64 as u64
            }
            #[inline(always)]
            unsafe fn load(p: *const u8) -> Self {
                let value: $wide;
                // SAFETY: the caller's contract.
                unsafe {
                    asm!($load, v = out(reg) value, p = in(reg) p,
                        options(nostack, readonly, preserves_flags));
                }
                value as Self
            }
            #[inline(always)]
            unsafe fn store(p: *mut u8, value: Self) {
                // SAFETY: the caller's contract.
                unsafe {
                    asm!($store, v = in($class) value, p = in(reg) p, options(nostack, preserves_flags));
                }
            }
        }
    };
}

int!(u8, i8, "movzx {v:e}, byte ptr [{p}]", "mov byte ptr [{p}], {v}", reg_byte, u32);
int!(u16, i16, "movzx {v:e}, word ptr [{p}]", "mov word ptr [{p}], {v:x}", reg, u32);
int!(u32, i32, "mov {v:e}, dword ptr [{p}]", "mov dword ptr [{p}], {v:e}", reg, u32);
int!(u64, i64, "mov {v}, qword ptr [{p}]", "mov qword ptr [{p}], {v}", reg, u64);

/// Copies `len` bytes out of or into guest RAM, upwards.
///
/// # Safety
/// Both are valid for `len` bytes; others may access them.
pub unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the caller's contract; the direction flag is clear in Rust code.
    unsafe {
        asm!("rep movsb", inout("rcx") len => _, inout("rsi") from => _, inout("rdi") to => _,
            options(nostack, preserves_flags));
    }
}
