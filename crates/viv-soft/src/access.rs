//! Reading and writing guest memory by linear address.
//!
//! A hit in the TLB is one comparison. Everything else, page crossings, device memory, watchpoints, takes the
//! slow path, byte-exact and in order.
#![allow(unsafe_code, reason = "a TLB hit gives a host address")]

use viv_arch::{Exception, Vector, paging};

use crate::cpu::{Cpu, Exec, Fault};
use crate::mmu::Access;
use crate::ram::{self, Int};
use crate::tlb::{TLB_SIZE, View};

/// Mark of a #GP that was raised because an address was not canonical.
pub const NOT_CANONICAL: u64 = 1;

impl Cpu {
    /// Reads a value.
    #[inline(always)]
    pub fn load<T: Int>(&mut self, address: u64) -> Result<T, Fault> {
        // SAFETY: the index is within the table.
        let entry = unsafe { &*self.tlb.current.add((address >> 12) as usize & (TLB_SIZE - 1)) };
        if address.wrapping_add(T::SIZE - 1) & !paging::PAGE_OFFSET == entry.read {
            // SAFETY: the entry says that the page is mapped; the value's last byte is in it, and so is its
            // first, for the next page's tag is in another slot.
            return Ok(unsafe { T::load(entry.at(address) as *const u8) });
        }
        self.load_slow(address)
    }

    /// Writes a value.
    #[inline(always)]
    pub fn store<T: Int>(&mut self, address: u64, value: T) -> Exec {
        // SAFETY: the index is within the table.
        let entry = unsafe { &*self.tlb.current.add((address >> 12) as usize & (TLB_SIZE - 1)) };
        if address.wrapping_add(T::SIZE - 1) & !paging::PAGE_OFFSET == entry.write {
            // SAFETY: as in `load`, for writing.
            unsafe { T::store(entry.at(address) as *mut u8, value) };
            return Ok(());
        }
        self.store_slow(address, value)
    }

    /// The host address of `size` bytes that may be read and written, if they are RAM within a page. Faults
    /// as a write does.
    #[inline(always)]
    pub fn pointer_for_update(&mut self, address: u64, size: u64) -> Result<Option<*mut u8>, Fault> {
        // SAFETY: the index is within the table.
        let entry = unsafe { &*self.tlb.current.add((address >> 12) as usize & (TLB_SIZE - 1)) };
        if address.wrapping_add(size - 1) & !paging::PAGE_OFFSET == entry.write {
            return Ok(Some(entry.at(address) as *mut u8));
        }
        self.pointer_slow(address, size, Access::Write)
    }

    /// The host address of `size` bytes that may be read, if they are RAM within a page.
    #[inline(always)]
    pub fn pointer_for_read(&mut self, address: u64, size: u64) -> Result<Option<*mut u8>, Fault> {
        // SAFETY: the index is within the table.
        let entry = unsafe { &*self.tlb.current.add((address >> 12) as usize & (TLB_SIZE - 1)) };
        if address.wrapping_add(size - 1) & !paging::PAGE_OFFSET == entry.read {
            return Ok(Some(entry.at(address) as *mut u8));
        }
        self.pointer_slow(address, size, Access::Read)
    }

    #[cold]
    #[inline(never)]
    fn pointer_slow(&mut self, address: u64, size: u64, access: Access) -> Result<Option<*mut u8>, Fault> {
        self.check_canonical(address, size)?;
        self.check_aligned(address, size)?;
        let phys = self.translate(address, access, self.view())?;
        if crosses(address, size) {
            let next = (address | paging::PAGE_OFFSET).wrapping_add(1);
            self.translate(self.wrap(address, next), access, self.view())?;
            return Ok(None);
        }
        self.note_access(address, size, access);
        let page = self.ram.page(phys).filter(|page| page.writable || access != Access::Write);
        Ok(page.map(|page| {
            // SAFETY: the offset is inside the page.
            unsafe { page.host.add((phys & paging::PAGE_OFFSET) as usize) }
        }))
    }

    #[cold]
    #[inline(never)]
    fn load_slow<T: Int>(&mut self, address: u64) -> Result<T, Fault> {
        self.check_canonical(address, T::SIZE)?;
        self.check_aligned(address, T::SIZE)?;
        self.note_access(address, T::SIZE, Access::Read);
        let mut bytes = [0; 8];
        if crosses(address, T::SIZE) {
            self.read_bytes(address, &mut bytes[..T::SIZE as usize])?;
        } else {
            let phys = self.translate(address, Access::Read, self.view())?;
            if let Some(page) = self.ram.page(phys) {
                // SAFETY: the value is inside the page.
                return Ok(unsafe { T::load(page.host.add((phys & paging::PAGE_OFFSET) as usize)) });
            }
            self.read_physical(phys, &mut bytes[..T::SIZE as usize]);
        }
        Ok(T::from_u64(u64::from_le_bytes(bytes)))
    }

    #[cold]
    #[inline(never)]
    fn store_slow<T: Int>(&mut self, address: u64, value: T) -> Exec {
        self.check_canonical(address, T::SIZE)?;
        self.check_aligned(address, T::SIZE)?;
        self.note_access(address, T::SIZE, Access::Write);
        let value = value.to_u64();
        if crosses(address, T::SIZE) {
            return self.write_bytes(address, &value.to_le_bytes()[..T::SIZE as usize]);
        }
        let phys = self.translate(address, Access::Write, self.view())?;
        match self.ram.writable_page(phys) {
            // SAFETY: the value is inside the page.
            Some(page) => unsafe {
                T::store(page.host.add((phys & paging::PAGE_OFFSET) as usize), T::from_u64(value));
            },
            None => self.write_physical(phys, &value.to_le_bytes()[..T::SIZE as usize]),
        }
        Ok(())
    }

    /// Reads bytes at any address, across pages and from devices.
    pub fn read_bytes(&mut self, address: u64, bytes: &mut [u8]) -> Exec {
        self.note_access(address, bytes.len() as u64, Access::Read);
        self.read_bytes_as(address, bytes, self.view())
    }

    /// Reads bytes as seen in `view`.
    pub fn read_bytes_as(&mut self, address: u64, bytes: &mut [u8], view: View) -> Exec {
        if let Some(from) = self.reach(view, address, bytes.len(), false) {
            // SAFETY: the TLB says that as many bytes are there.
            unsafe { ram::copy(from, bytes.as_mut_ptr(), bytes.len()) };
            return Ok(());
        }
        self.check_canonical(address, bytes.len() as u64)?;
        // Faults come before any device sees a read.
        for (at, _) in pieces(address, bytes.len()) {
            self.translate(self.wrap(address, at), Access::Read, view)?;
        }
        for (at, range) in pieces(address, bytes.len()) {
            let phys = self.translate(self.wrap(address, at), Access::Read, view)?;
            self.read_physical(phys, &mut bytes[range]);
        }
        Ok(())
    }

    /// Writes bytes at any address, across pages and to devices: all of them or, on a fault, none.
    pub fn write_bytes(&mut self, address: u64, bytes: &[u8]) -> Exec {
        self.note_access(address, bytes.len() as u64, Access::Write);
        self.write_bytes_as(address, bytes, self.view())
    }

    /// Writes bytes as seen in `view`.
    pub fn write_bytes_as(&mut self, address: u64, bytes: &[u8], view: View) -> Exec {
        if let Some(to) = self.reach(view, address, bytes.len(), true) {
            // SAFETY: the TLB says that as many bytes may be written there.
            unsafe { ram::copy(bytes.as_ptr(), to, bytes.len()) };
            return Ok(());
        }
        self.check_canonical(address, bytes.len() as u64)?;
        for (at, _) in pieces(address, bytes.len()) {
            self.translate(self.wrap(address, at), Access::Write, view)?;
        }
        for (at, range) in pieces(address, bytes.len()) {
            let phys = self.translate(self.wrap(address, at), Access::Write, view)?;
            self.write_physical(phys, &bytes[range]);
        }
        Ok(())
    }

    /// Fails as a write by the processor itself would.
    pub fn check_writable(&mut self, address: u64, len: usize) -> Exec {
        let view = self.system_view();
        for (at, _) in pieces(address, len) {
            self.translate(self.wrap(address, at), Access::Write, view)?;
        }
        Ok(())
    }

    /// Reads a value for the processor itself (descriptor tables, TSS).
    pub fn load_system<T: Int>(&mut self, address: u64) -> Result<T, Fault> {
        if let Some(from) = self.tlb.reach(self.system_view(), address, T::SIZE, false) {
            // SAFETY: the TLB says that the value is there.
            return Ok(unsafe { T::load(from) });
        }
        let mut bytes = [0; 8];
        self.read_bytes_as(address, &mut bytes[..T::SIZE as usize], self.system_view())?;
        Ok(T::from_u64(u64::from_le_bytes(bytes)))
    }

    /// Writes a value for the processor itself.
    pub fn store_system<T: Int>(&mut self, address: u64, value: T) -> Exec {
        self.write_bytes_as(address, &value.to_u64().to_le_bytes()[..T::SIZE as usize], self.system_view())
    }

    /// Where `len` bytes lie in the host, if the TLB knows of them in `view`.
    #[inline]
    fn reach(&self, view: View, address: u64, len: usize, write: bool) -> Option<*mut u8> {
        let fits = (1..=paging::PAGE_SIZE).contains(&(len as u64));
        if fits { self.tlb.reach(view, address, len as u64, write) } else { None }
    }

    /// Reads within one page of guest-physical memory.
    pub fn read_physical(&mut self, phys: u64, bytes: &mut [u8]) {
        if let Some(page) = self.ram.page(phys) {
            // SAFETY: callers stay within a page.
            unsafe {
                ram::copy(
                    page.host.add((phys & paging::PAGE_OFFSET) as usize),
                    bytes.as_mut_ptr(),
                    bytes.len(),
                );
            }
            return;
        }
        for (at, range) in device_pieces(phys, bytes.len()) {
            let part = &mut bytes[range];
            if self.apic.mmio_base() == Some(at & !paging::PAGE_OFFSET) {
                self.apic_read(at & paging::PAGE_OFFSET, part);
            } else {
                self.platform.memory_read(at, part);
            }
        }
    }

    /// Writes within one page of guest-physical memory.
    pub fn write_physical(&mut self, phys: u64, bytes: &[u8]) {
        if let Some(page) = self.ram.writable_page(phys) {
            // SAFETY: callers stay within a page.
            unsafe {
                ram::copy(bytes.as_ptr(), page.host.add((phys & paging::PAGE_OFFSET) as usize), bytes.len());
            }
            return;
        }
        for (at, range) in device_pieces(phys, bytes.len()) {
            let part = &bytes[range];
            if self.apic.mmio_base() == Some(at & !paging::PAGE_OFFSET) {
                self.apic_write(at & paging::PAGE_OFFSET, part);
            } else {
                self.platform.memory_write(at, part);
            }
        }
    }

    /// Reads guest-physical memory across pages.
    pub fn read_physical_bytes(&mut self, phys: u64, bytes: &mut [u8]) {
        for (at, range) in pieces(phys, bytes.len()) {
            self.read_physical(at, &mut bytes[range]);
        }
    }

    /// Writes guest-physical memory across pages, for the processor itself.
    pub fn write_physical_bytes(&mut self, phys: u64, bytes: &[u8]) {
        for (at, range) in pieces(phys, bytes.len()) {
            if let Some(page) = self.ram.writable_page(at) {
                page.record.note_write(page.index);
            }
            self.write_physical(at, &bytes[range]);
        }
    }

    /// In long mode, fails with #GP(0) unless the address is canonical. The exception is marked, for by way of SS it
    /// becomes #SS(0).
    #[inline]
    fn check_canonical(&mut self, address: u64, size: u64) -> Exec {
        if self.long_mode()
            && !(paging::is_canonical(address) && paging::is_canonical(address.wrapping_add(size.max(1) - 1)))
        {
            let vector = Vector::GeneralProtection;
            return self.raise(Exception { vector, error_code: 0, address: NOT_CANONICAL });
        }
        Ok(())
    }

    /// With alignment checks on, fails with #AC(0) unless the address is a multiple of the operand's size
    /// (SDM vol. 3, table 6-7). Operands of 16 bytes and more are left to their instructions, as the manual allows.
    fn check_aligned(&mut self, address: u64, size: u64) -> Exec {
        let alignment = match size {
            2 | 4 | 8 => size,
            10 => 8,
            _ => 1,
        };
        if self.tlb.checks_alignment && address & (alignment - 1) != 0 {
            return self.raise(Exception::new(Vector::AlignmentCheck));
        }
        Ok(())
    }

    /// Where an access that begins at `start` reaches `address`: outside 64-bit mode it wraps at 4 GiB, unless it
    /// is the processor's own to a table beyond.
    fn wrap(&self, start: u64, address: u64) -> u64 {
        if self.is_64bit() || start >> 32 != 0 { address } else { address & 0xffff_ffff }
    }
}

/// Whether `size` bytes at `address` touch two pages.
#[inline]
pub fn crosses(address: u64, size: u64) -> bool {
    (address & paging::PAGE_OFFSET) + size > paging::PAGE_SIZE
}

/// The parts of `len` bytes at `address` that lie within a page each.
fn pieces(address: u64, len: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    split(address, len, paging::PAGE_SIZE as usize)
}

/// The parts of an access to device memory: 8 bytes at the most, not across 8-byte boundaries.
fn device_pieces(address: u64, len: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    split(address, len, 8)
}

fn split(address: u64, len: usize, unit: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= len {
            return None;
        }
        let here = address.wrapping_add(at as u64);
        let end = len.min(at + unit - (here as usize & (unit - 1)));
        let range = at..end;
        at = end;
        Some((here, range))
    })
}
