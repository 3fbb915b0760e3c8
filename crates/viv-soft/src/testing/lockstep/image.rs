//! What is in RAM when a machine starts.

use viv_arch::paging::{self, ACCESSED, ADDRESS, LARGE, PAGE_SIZE, PRESENT, USER, WRITABLE};

use super::layout::{PLAY, PLAY_SIZE, SYSTEM_SIZE, TABLES};

/// Contents of RAM, in the order of [`GuardedRam::contents`](super::ram::GuardedRam::contents).
#[derive(Clone)]
pub struct Image {
    pub bytes: Vec<u8>,
    next_table: u64,
}

/// How large a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageSize {
    Size4K,
    Size2M,
}

impl Image {
    /// Zeros.
    pub fn new() -> Self {
        Self { bytes: vec![0; (SYSTEM_SIZE + PLAY_SIZE) as usize], next_table: TABLES }
    }

    /// Where a physical address is in `bytes`.
    pub fn offset(phys: u64) -> usize {
        (if phys < SYSTEM_SIZE { phys } else { SYSTEM_SIZE + phys - PLAY }) as usize
    }

    /// Writes bytes at a physical address.
    pub fn write(&mut self, phys: u64, bytes: &[u8]) {
        let at = Self::offset(phys);
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Writes a word at a physical address.
    pub fn write_word(&mut self, phys: u64, word: u64) {
        self.write(phys, &word.to_le_bytes());
    }

    fn read_word(&self, phys: u64) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.bytes[Self::offset(phys)..][..8]);
        u64::from_le_bytes(bytes)
    }

    /// A new page table.
    pub fn table(&mut self) -> u64 {
        let table = self.next_table;
        self.next_table += PAGE_SIZE;
        assert!(self.next_table <= SYSTEM_SIZE, "there is room for all page tables");
        table
    }

    /// Maps a page under the root table `root`; gives where its entry is. Tables on the way hide nothing, and
    /// count as used: whether they are, where a global page stays in the TLB, is the engine's affair.
    pub fn map(&mut self, root: u64, linear: u64, size: PageSize, entry: u64) -> u64 {
        let shifts: &[u32] = match size {
            PageSize::Size4K => &[39, 30, 21, 12],
            PageSize::Size2M => &[39, 30, 21],
        };
        let mut table = root;
        for (level, shift) in shifts.iter().enumerate() {
            let at = table + (linear >> shift & 0x1ff) * 8;
            if level + 1 == shifts.len() {
                let large = if size == PageSize::Size2M { LARGE } else { 0 };
                self.write_word(at, entry | large);
                return at;
            }
            if self.read_word(at) & PRESENT == 0 {
                let next = self.table();
                self.write_word(at, next | PRESENT | WRITABLE | USER | ACCESSED);
            }
            table = self.read_word(at) & ADDRESS;
        }
        unreachable!("there is a last level")
    }
}

/// An entry's flags by letters: present is implied; `w`ritable, `u`ser, e`x`ecutable.
pub fn rights(letters: &str) -> u64 {
    let has = |letter| letters.contains(letter);
    PRESENT
        | if has('w') { WRITABLE } else { 0 }
        | if has('u') { USER } else { 0 }
        | if has('x') { 0 } else { paging::NO_EXECUTE }
}
