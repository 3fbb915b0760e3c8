//! Page tables, built by the test and readable to it afterwards.

use viv_arch::paging;
use viv_engine::GuestMemory;
use vm_memory::{Bytes, GuestAddress};

use super::layout::TABLES;

/// How large a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageSize {
    Size4K,
    Size2M,
    Size1G,
}

impl PageSize {
    /// How many levels of tables lead to it.
    pub fn levels(self) -> usize {
        match self {
            Self::Size4K => 4,
            Self::Size2M => 3,
            Self::Size1G => 2,
        }
    }
}

/// Rights that hide nothing.
pub const FULL: u64 = paging::PRESENT | paging::WRITABLE | paging::USER;
/// Rights of the supervisor's pages.
pub const KERNEL: u64 = paging::PRESENT | paging::WRITABLE;

/// Four-level page tables in guest memory.
pub struct PageTables {
    memory: GuestMemory,
    next: u64,
}

impl PageTables {
    /// Empty ones; CR3 is [`TABLES`].
    pub fn new(memory: GuestMemory) -> Self {
        Self { memory, next: TABLES + paging::PAGE_SIZE }
    }

    pub fn read(&self, at: u64) -> u64 {
        self.memory.read_obj(GuestAddress(at)).unwrap()
    }

    pub fn write(&self, at: u64, entry: u64) {
        self.memory.write_obj(entry, GuestAddress(at)).unwrap();
    }

    /// Maps a page. Tables on the way are made as needed and hide nothing.
    pub fn map(&mut self, linear: u64, phys: u64, size: PageSize, flags: u64) {
        let path = self.path(linear, size);
        let large = if size == PageSize::Size4K { 0 } else { paging::LARGE };
        self.write(path[path.len() - 1], phys | flags | large);
    }

    /// The addresses of the entries that lead to a page, from the top; missing tables are made.
    pub fn path(&mut self, linear: u64, size: PageSize) -> Vec<u64> {
        let mut table = TABLES;
        let mut path = Vec::new();
        for level in 0..size.levels() {
            let at = table + ((linear >> (39 - 9 * level)) & 0x1ff) * 8;
            path.push(at);
            if level + 1 < size.levels() {
                if self.read(at) & paging::PRESENT == 0 {
                    self.write(at, self.next | FULL);
                    self.next += paging::PAGE_SIZE;
                }
                table = self.read(at) & paging::ADDRESS;
            }
        }
        path
    }
}
