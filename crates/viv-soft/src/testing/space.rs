//! Guest memory behind page tables, built page by page from the host's side.

use std::ops::Range;

use viv_arch::paging::{self, PAGE_SIZE, PRESENT, USER, WRITABLE};
use viv_engine::{GuestMemory, memory};
use vm_memory::{Bytes, GuestAddress};

use super::Protection;

/// A linear address space of a guest. Page tables and frames come from its own RAM.
pub struct AddressSpace {
    memory: GuestMemory,
    root: u64,
    next_frame: u64,
    end: u64,
    has_changed: bool,
}

impl AddressSpace {
    /// An empty one in fresh RAM of `size` bytes. The root table is at `root`, and frames are handed out upwards from
    /// there.
    ///
    /// # Panics
    /// If the host has no memory for it.
    #[must_use]
    pub fn new(size: u64, root: u64) -> Self {
        let memory = memory::allocate(size).expect("the host has memory");
        Self { memory, root, next_frame: root + PAGE_SIZE, end: size, has_changed: true }
    }

    /// The RAM.
    #[must_use]
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Whether page tables have changed since this was last asked.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.has_changed)
    }

    /// Maps zeroed memory. Pages are present at once.
    ///
    /// # Panics
    /// When the RAM is used up.
    pub fn map(&mut self, address: u64, size: u64, protection: Protection) {
        for page in pages(address, size) {
            let frame = self.frame();
            self.set(page, frame | flags(protection));
        }
    }

    /// Maps zeroed memory that only a supervisor may access.
    ///
    /// # Panics
    /// As for [`AddressSpace::map`].
    pub fn map_supervisor(&mut self, address: u64, size: u64) {
        for page in pages(address, size) {
            let frame = self.frame();
            self.set(page, frame | PRESENT | WRITABLE);
        }
    }

    /// Changes what may be done with mapped pages.
    pub fn protect(&mut self, address: u64, size: u64, protection: Protection) {
        for page in pages(address, size) {
            let entry = self.leaf(page);
            let frame = self.read_entry(entry) & paging::ADDRESS;
            self.write_entry(entry, frame | flags(protection));
        }
    }

    /// Copies bytes into mapped memory, whatever its protection.
    ///
    /// # Panics
    /// If it is not mapped.
    pub fn write(&mut self, address: u64, bytes: &[u8]) {
        self.pieces(address, bytes.len(), |memory, frame, range| {
            memory.write_slice(&bytes[range], frame).expect("frames are in RAM");
        });
    }

    /// Copies bytes out of mapped memory, whatever its protection.
    ///
    /// # Panics
    /// If it is not mapped.
    pub fn read(&mut self, address: u64, bytes: &mut [u8]) {
        self.pieces(address, bytes.len(), |memory, frame, range| {
            memory.read_slice(&mut bytes[range], frame).expect("frames are in RAM");
        });
    }

    fn pieces(
        &mut self,
        address: u64,
        len: usize,
        mut piece: impl FnMut(&GuestMemory, GuestAddress, Range<usize>),
    ) {
        let mut at = 0;
        while at < len {
            let here = address + at as u64;
            let offset = here & paging::PAGE_OFFSET;
            let end = len.min(at + (PAGE_SIZE - offset) as usize);
            let entry = self.leaf(here);
            let frame = self.read_entry(entry) & paging::ADDRESS;
            assert_ne!(frame, 0, "nothing is mapped at {here:#x}");
            piece(&self.memory, GuestAddress(frame + offset), at..end);
            at = end;
        }
    }

    fn frame(&mut self) -> u64 {
        let frame = self.next_frame;
        self.next_frame += PAGE_SIZE;
        assert!(self.next_frame <= self.end, "the machine's RAM is used up");
        frame
    }

    fn set(&mut self, page: u64, entry: u64) {
        let at = self.leaf(page);
        self.write_entry(at, entry);
    }

    /// The address of the page-table entry for a linear address; missing tables are made.
    fn leaf(&mut self, address: u64) -> u64 {
        let mut table = self.root;
        for shift in [39, 30, 21] {
            let at = table + (address >> shift & 0x1ff) * 8;
            let mut entry = self.read_entry(at);
            if entry == 0 {
                entry = self.frame() | PRESENT | WRITABLE | USER;
                self.write_entry(at, entry);
            }
            table = entry & paging::ADDRESS;
        }
        table + (address >> 12 & 0x1ff) * 8
    }

    fn read_entry(&self, at: u64) -> u64 {
        self.memory.read_obj(GuestAddress(at)).expect("page tables are in RAM")
    }

    fn write_entry(&mut self, at: u64, entry: u64) {
        self.memory.write_obj(entry, GuestAddress(at)).expect("page tables are in RAM");
        self.has_changed = true;
    }
}

fn pages(address: u64, size: u64) -> impl Iterator<Item = u64> {
    (0..size).step_by(PAGE_SIZE as usize).map(move |offset| address.wrapping_add(offset))
}

/// The flags of a page-table entry.
fn flags(protection: Protection) -> u64 {
    match protection {
        Protection::None => 0,
        Protection::ReadOnly => PRESENT | USER | paging::NO_EXECUTE,
        Protection::ReadWrite => PRESENT | USER | WRITABLE | paging::NO_EXECUTE,
        Protection::All => PRESENT | USER | WRITABLE,
    }
}
