//! The formats of page tables, one for each paging mode (SDM vol. 3, 4.3 to 4.5).

use viv_arch::{Cr0, Cr4, Efer, paging};

use crate::cpu::{Cpu, Exec};
use crate::ram::Int;

/// A paging mode's tables. Levels count as in 4-level paging: those of 4 KiB pages are at depth 3 in every mode.
pub trait Format {
    /// A table's entry.
    type Entry: Int;
    /// The depth of the first table.
    const FIRST: usize;
    /// How many bits of the address choose an entry.
    const INDEX_BITS: u32;

    /// Where the first table is, if there is one for `address`.
    fn root(cpu: &mut Cpu, address: u64) -> Option<u64>;

    /// Whether an entry at `depth` maps a page, and leads to no table.
    fn is_leaf(cpu: &Cpu, depth: usize, entry: u64) -> bool;

    /// The bits that must be zero in an entry at `depth`.
    fn reserved(cpu: &Cpu, depth: usize, is_leaf: bool) -> u64;

    /// The guest-physical address of the page that a leaf maps; `offset` has the bits of an address within it.
    fn page(leaf: u64, offset: u64) -> u64 {
        leaf & paging::ADDRESS & !offset
    }

    /// How far the index of a table at `depth` is from bit 0 of the address.
    fn shift(depth: usize) -> u32 {
        12 + Self::INDEX_BITS * (3 - depth as u32)
    }
}

/// 4-level paging (SDM vol. 3, 4.5).
pub struct FourLevel;

impl Format for FourLevel {
    type Entry = u64;
    const FIRST: usize = 0;
    const INDEX_BITS: u32 = 9;

    #[inline(always)]
    fn root(cpu: &mut Cpu, _: u64) -> Option<u64> {
        Some(cpu.cr3 & paging::ADDRESS)
    }

    #[inline(always)]
    fn is_leaf(_: &Cpu, depth: usize, entry: u64) -> bool {
        depth == 3 || (entry & paging::LARGE != 0 && (depth == 1 || depth == 2))
    }

    #[inline(always)]
    fn reserved(cpu: &Cpu, depth: usize, is_leaf: bool) -> u64 {
        let no_execute = if cpu.efer.contains(Efer::NXE) { 0 } else { paging::NO_EXECUTE };
        let by_level = match (depth, is_leaf) {
            (0, _) => paging::LARGE,
            // Bit 12 is the PAT bit of large pages.
            (1, true) => 0x3fff_e000,
            (2, true) => 0x001f_e000,
            _ => 0,
        };
        paging::ADDRESS & cpu.beyond_physical() | no_execute | by_level
    }
}

/// PAE paging (SDM vol. 3, 4.4): the two lower levels of 4-level paging, with [`Cpu::pdptes`] above them. Those carry no
/// rights.
pub struct Pae;

impl Format for Pae {
    type Entry = u64;
    const FIRST: usize = 2;
    const INDEX_BITS: u32 = 9;

    fn root(cpu: &mut Cpu, address: u64) -> Option<u64> {
        let cr3 = cpu.cr3;
        // A state that was loaded may have none; memory still has what they came from.
        let entries = cpu.pdptes.unwrap_or_else(|| cpu.read_pdptes(cr3));
        cpu.pdptes = Some(entries);
        let entry = entries[(address >> 30) as usize & 3];
        (entry & paging::PRESENT != 0).then_some(entry & paging::ADDRESS)
    }

    fn is_leaf(cpu: &Cpu, depth: usize, entry: u64) -> bool {
        FourLevel::is_leaf(cpu, depth, entry)
    }

    fn reserved(cpu: &Cpu, depth: usize, is_leaf: bool) -> u64 {
        // Bits 52 to 62, which 4-level paging ignores, are reserved here.
        FourLevel::reserved(cpu, depth, is_leaf)
            | (!paging::ADDRESS & !paging::NO_EXECUTE & !paging::PAGE_OFFSET)
    }
}

/// 32-bit paging (SDM vol. 3, 4.3).
pub struct TwoLevel;

impl Format for TwoLevel {
    type Entry = u32;
    const FIRST: usize = 2;
    const INDEX_BITS: u32 = 10;

    fn root(cpu: &mut Cpu, _: u64) -> Option<u64> {
        Some(cpu.cr3 & 0xffff_f000)
    }

    fn is_leaf(cpu: &Cpu, depth: usize, entry: u64) -> bool {
        depth == 3 || (entry & paging::LARGE != 0 && cpu.cr4.contains(Cr4::PSE))
    }

    fn reserved(_: &Cpu, depth: usize, is_leaf: bool) -> u64 {
        // In an entry for 4 MiB, bits 13 to 20 are bits 32 to 39 of the address (PSE-36), as there are 40 and more.
        if depth == 2 && is_leaf { 1 << 21 } else { 0 }
    }

    fn page(leaf: u64, offset: u64) -> u64 {
        let high = if offset == paging::PAGE_OFFSET { 0 } else { (leaf >> 13 & 0xff) << 32 };
        (leaf & paging::ADDRESS & !offset) | high
    }
}

impl Cpu {
    /// The bits that no guest-physical address has.
    #[inline]
    pub fn beyond_physical(&self) -> u64 {
        u64::MAX << self.physical_bits
    }

    /// Whether paging is on and is PAE paging with these control registers, once LMA is `long`.
    fn uses_pdptes(cr0: Cr0, cr4: Cr4, long: bool) -> bool {
        cr0.contains(Cr0::PG) && cr4.contains(Cr4::PAE) && !long
    }

    /// Loads the four page-directory-pointer-table entries if paging with these control registers has them, or fails
    /// with #GP(0) and leaves those that were (SDM vol. 3, 4.4.1).
    pub fn load_pdptes(&mut self, cr0: Cr0, cr3: u64, cr4: Cr4, long: bool) -> Exec {
        if !Self::uses_pdptes(cr0, cr4, long) {
            return Ok(());
        }
        let entries = self.read_pdptes(cr3);
        // SDM vol. 3, table 4-8.
        let reserved = 0x1e6 | self.beyond_physical();
        if entries.iter().any(|entry| entry & paging::PRESENT != 0 && entry & reserved != 0) {
            return self.gp0();
        }
        self.pdptes = Some(entries);
        Ok(())
    }

    /// The entries in use, for a saved state.
    pub fn present_pdptes(&self) -> Option<[u64; 4]> {
        self.pdptes.filter(|_| Self::uses_pdptes(self.cr0, self.cr4, self.long_mode()))
    }

    fn read_pdptes(&mut self, cr3: u64) -> [u64; 4] {
        let mut bytes = [0; 32];
        self.read_physical(cr3 & 0xffff_ffe0, &mut bytes);
        let mut entries = [0; 4];
        for (entry, bytes) in entries.iter_mut().zip(bytes.chunks_exact(8)) {
            *entry = bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
        }
        entries
    }
}
