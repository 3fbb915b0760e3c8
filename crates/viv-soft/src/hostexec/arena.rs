//! Memory for generated code.
#![allow(unsafe_code, reason = "maps memory and writes code into it")]

use std::ffi::c_void;
use std::io;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use rustix::mm::{Advice, MapFlags, MprotectFlags, MremapFlags, ProtFlags};

use super::fault::{self, FaultSites};

/// Code memory: mapped twice, once to be written, once to be executed.
///
/// Code is appended until the arena is full; then its owner drops every reference into it and calls
/// [`CodeArena::clear`]. Single pieces are never freed. Or its owner keeps account of what is in use behind what was
/// appended, and writes there ([`CodeArena::write`]).
#[derive(Debug)]
pub struct CodeArena {
    writable: NonNull<u8>,
    executable: NonNull<u8>,
    size: usize,
    used: usize,
    registration: fault::Registration,
    /// Kept alive for the registration.
    _sites: Option<Arc<FaultSites>>,
}

/// Why there is no arena, or no room in it.
#[derive(Debug, thiserror::Error)]
pub enum ArenaError {
    /// The memory could not be had.
    #[error("cannot {what} for {size} bytes of code memory")]
    Map {
        /// The step that failed.
        what: &'static str,
        /// Size of the arena.
        size: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// The arena is full: clear it and generate again.
    #[error("no room for {wanted} bytes of code: {used} of {size} bytes are in use")]
    Full {
        /// Size of the new piece.
        wanted: usize,
        /// Bytes in use.
        used: usize,
        /// Size of the arena.
        size: usize,
    },
}

// SAFETY: the mappings belong to the arena alone and are as good on one thread as on another.
unsafe impl Send for CodeArena {}

impl CodeArena {
    /// Every piece starts at a multiple of this, for the instruction fetcher.
    const ALIGNMENT: usize = 16;

    /// Maps an arena of `size` bytes, rounded up to pages.
    ///
    /// Also installs this process's signal handlers for faults in generated code, once.
    ///
    /// # Errors
    /// [`ArenaError::Map`].
    pub fn new(size: usize) -> Result<Self, ArenaError> {
        Self::map(size, None)
    }

    /// An arena whose code's faults are found by a table.
    ///
    /// # Errors
    /// [`ArenaError::Map`].
    pub fn with_fault_sites(size: usize, sites: Arc<FaultSites>) -> Result<Self, ArenaError> {
        Self::map(size, Some(sites))
    }

    fn map(size: usize, sites: Option<Arc<FaultSites>>) -> Result<Self, ArenaError> {
        let size = size.next_multiple_of(rustix::param::page_size());
        let error =
            |what| move |source: rustix::io::Errno| ArenaError::Map { what, size, source: source.into() };
        let address = |mapped: *mut c_void, what| {
            NonNull::new(mapped.cast::<u8>()).ok_or_else(|| error(what)(rustix::io::Errno::FAULT))
        };
        let (protection, flags) =
            (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::NORESERVE);
        let what = "map the writable view";
        // SAFETY: a new mapping at an address that the kernel chooses.
        let mapped = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), size, protection, flags) };
        let writable = address(mapped.map_err(error(what))?, what)?;
        let unmap = |view: NonNull<u8>| {
            // SAFETY: mapped above, and nothing refers to it yet.
            let _ = unsafe { rustix::mm::munmap(view.as_ptr().cast(), size) };
        };
        let what = "map the executable view";
        // SAFETY: with an old size of 0 nothing is moved; the same memory is mapped at another address, too.
        let mapped = unsafe { rustix::mm::mremap(writable.as_ptr().cast(), 0, size, MremapFlags::MAYMOVE) };
        let executable = (mapped.map_err(error(what)))
            .and_then(|mapped| address(mapped, what))
            .inspect_err(|_| unmap(writable))?;
        let rights = MprotectFlags::READ | MprotectFlags::EXEC;
        // SAFETY: nothing refers to the mapping yet.
        let made = unsafe { rustix::mm::mprotect(executable.as_ptr().cast(), size, rights) };
        made.map_err(error("make the executable view one")).inspect_err(|_| {
            unmap(executable);
            unmap(writable);
        })?;
        let start = executable.as_ptr() as usize;
        let registration =
            fault::Registration::new(start..start + size, sites.as_ref().map_or(ptr::null(), Arc::as_ptr));
        Ok(Self { writable, executable, size, used: 0, registration, _sites: sites })
    }

    /// Appends a piece of code and returns its address in the executable mapping.
    ///
    /// # Errors
    /// [`ArenaError::Full`].
    pub fn push(&mut self, code: &[u8]) -> Result<NonNull<u8>, ArenaError> {
        let start = self.used.next_multiple_of(Self::ALIGNMENT);
        let address = self.write(start, code)?;
        self.used = start + code.len();
        Ok(address)
    }

    /// Writes code at an offset. Nothing refers to what was there.
    ///
    /// # Errors
    /// [`ArenaError::Full`].
    pub fn write(&mut self, start: usize, code: &[u8]) -> Result<NonNull<u8>, ArenaError> {
        if start.saturating_add(code.len()) > self.size {
            return Err(ArenaError::Full { wanted: code.len(), used: self.used, size: self.size });
        }
        // SAFETY: the code is inside both mappings, and `&mut self` means that nobody else writes. Bytes that are not in
        // use are not executed before this function has returned their address.
        unsafe {
            ptr::copy_nonoverlapping(code.as_ptr(), self.writable.as_ptr().add(start), code.len());
            Ok(self.executable.add(start))
        }
    }

    /// Says that little will be written for now of what is written already: the host need not keep that mapped twice.
    pub fn rest(&mut self) {
        let writable = self.writable.as_ptr().cast();
        // SAFETY: the mapping is shared, so what was written is not lost. A failure costs memory alone.
        let _ = unsafe { rustix::mm::madvise(writable, self.size, Advice::LinuxDontNeed) };
    }

    /// Where the next piece will be in the executable mapping.
    #[must_use]
    pub fn next_address(&self) -> u64 {
        self.executable.as_ptr() as u64 + self.used.next_multiple_of(Self::ALIGNMENT) as u64
    }

    /// How far an address in the executable mapping is from its beginning.
    #[must_use]
    pub fn offset_of(&self, address: u64) -> u32 {
        address.wrapping_sub(self.executable.as_ptr() as u64) as u32
    }

    /// The address in the executable mapping that is so far from its beginning.
    #[must_use]
    pub fn address_of(&self, offset: u32) -> u64 {
        self.executable.as_ptr() as u64 + u64::from(offset)
    }

    /// Replaces four bytes of code at offset `at`. Nothing happens if that is not inside the arena.
    pub fn patch(&mut self, at: u32, bytes: [u8; 4]) {
        let at = at as usize;
        if at.saturating_add(4) <= self.size {
            // SAFETY: inside the writable mapping. The code is run by the thread that holds `&mut self`, so not now.
            unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.writable.as_ptr().add(at), 4) };
        }
    }

    /// Gives all memory back for new code. Whoever holds an address that [`CodeArena::push`] returned must
    /// not call it any more.
    pub fn clear(&mut self) {
        self.used = 0;
    }

    /// Bytes in use, of those that were appended.
    #[must_use]
    pub const fn used(&self) -> usize {
        self.used
    }

    /// Its size.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.size
    }
}

impl Drop for CodeArena {
    fn drop(&mut self) {
        self.registration.revoke();
        for mapping in [self.writable, self.executable] {
            // SAFETY: mapped in `new` with this size; the contract of `push` ends with the arena.
            // A failure leaks the memory, which is all that can be done about it.
            let _ = unsafe { rustix::mm::munmap(mapping.as_ptr().cast(), self.size) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// mov eax, 42; ret
    const CODE: [u8; 6] = [0xb8, 42, 0, 0, 0, 0xc3];

    #[test]
    fn runs_what_was_pushed() {
        let mut arena = CodeArena::new(1).unwrap();
        let first = arena.push(&CODE).unwrap();
        let second = arena.push(&CODE).unwrap();
        assert_eq!(second.as_ptr() as usize - first.as_ptr() as usize, 16);
        // SAFETY: CODE is a complete function that touches nothing but EAX.
        let function: extern "sysv64" fn() -> u32 = unsafe { std::mem::transmute(second) };
        assert_eq!(function(), 42);
    }

    #[test]
    fn is_full_at_its_size_and_empty_after_clear() {
        let mut arena = CodeArena::new(4096).unwrap();
        arena.push(&[0x90; 4090]).unwrap();
        assert!(matches!(arena.push(&CODE), Err(ArenaError::Full { wanted: 6, used: 4090, size: 4096 })));
        arena.clear();
        assert_eq!(arena.used(), 0);
        arena.push(&CODE).unwrap();
    }

    #[test]
    fn what_was_written_stays_when_it_rests() {
        let mut arena = CodeArena::new(4096).unwrap();
        arena.push(&CODE).unwrap();
        arena.rest();
        let second = arena.push(&CODE).unwrap();
        // SAFETY: as above.
        let first: extern "sysv64" fn() -> u32 = unsafe { std::mem::transmute(second.sub(16)) };
        assert_eq!(first(), 42);
    }

    #[test]
    fn no_mapping_is_writable_and_executable() {
        let arena = CodeArena::new(4096).unwrap();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        for (pointer, wanted) in [(arena.writable, "rw-s"), (arena.executable, "r-xs")] {
            let start = format!("{:x}-", pointer.as_ptr() as usize);
            let line = maps.lines().find(|line| line.starts_with(&start)).unwrap();
            assert!(line.contains(wanted), "{line}");
        }
    }
}
