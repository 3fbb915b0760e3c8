//! The page tables that the kernel starts on: the first 4 GiB, mapped to themselves in 2 MiB pages.

use crate::layout::PAGE_TABLES;

const PRESENT_WRITABLE: u64 = 0x3;
/// PS: the entry maps a large page.
const PAGE_SIZE: u64 = 0x80;
const LARGE_PAGE: u64 = 2 << 20;
const TABLE: u64 = 0x1000;
const ENTRIES: u64 = TABLE / 8;
const DIRECTORIES: u64 = 4;

const _: () = assert!(PAGE_TABLES.end - PAGE_TABLES.start == (2 + DIRECTORIES) * TABLE);

/// The tables as they go to [`PAGE_TABLES`]: PML4, PDPT, page directories.
pub fn identity() -> Vec<u8> {
    let table = |index: u64| (PAGE_TABLES.start + index * TABLE) | PRESENT_WRITABLE;
    let pml4 = (0..ENTRIES).map(|index| if index == 0 { table(1) } else { 0 });
    let pdpt = (0..ENTRIES).map(|index| if index < DIRECTORIES { table(2 + index) } else { 0 });
    let pages = (0..DIRECTORIES * ENTRIES).map(|page| (page * LARGE_PAGE) | PRESENT_WRITABLE | PAGE_SIZE);
    pml4.chain(pdpt).chain(pages).flat_map(u64::to_le_bytes).collect()
}
