//! `struct hvm_start_info`, version 1, and the tables it leads to (Xen,
//! xen/include/public/arch-x86/hvm/start_info.h).

use std::ops::Range;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::error::BootError;
use crate::layout;
use crate::load::Loaded;

/// `XEN_HVM_START_MAGIC_VALUE`: "xEn3" with the top bit of the "E" set.
pub const MAGIC: u32 = 0x336e_c578;
/// With version 1 came the memory map.
const VERSION: u32 = 1;

#[derive(Debug, Clone, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct StartInfo {
    pub magic: U32,
    pub version: U32,
    pub flags: U32,
    pub nr_modules: U32,
    pub modlist_paddr: U64,
    pub cmdline_paddr: U64,
    pub rsdp_paddr: U64,
    pub memmap_paddr: U64,
    pub memmap_entries: U32,
    pub reserved: U32,
}

#[derive(Debug, Clone, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct ModlistEntry {
    pub paddr: U64,
    pub size: U64,
    pub cmdline_paddr: U64,
    pub reserved: U64,
}

#[derive(Debug, Clone, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct MemmapEntry {
    pub addr: U64,
    pub size: U64,
    pub kind: U32,
    pub reserved: U32,
}

/// The bytes that go to `place`: the structure, the list of modules (the initrd, if there is one), the memory
/// map.
pub fn build(place: Range<u64>, loaded: &Loaded) -> Result<Vec<u8>, BootError> {
    let modules: Vec<_> = loaded
        .initrd
        .iter()
        .map(|initrd| ModlistEntry {
            paddr: initrd.start.into(),
            size: (initrd.end - initrd.start).into(),
            cmdline_paddr: 0.into(),
            reserved: 0.into(),
        })
        .collect();
    let memmap: Vec<_> = loaded
        .map
        .iter()
        .map(|range| MemmapEntry {
            addr: range.start.into(),
            size: range.size.into(),
            kind: (range.kind as u32).into(),
            reserved: 0.into(),
        })
        .collect();

    let modlist = place.start + size_of::<StartInfo>() as u64;
    let memmap_paddr = modlist + size_of_val(modules.as_slice()) as u64;
    let end = memmap_paddr + size_of_val(memmap.as_slice()) as u64;
    if end > place.end {
        return Err(BootError::TooManyRanges(memmap.len()));
    }
    let info = StartInfo {
        magic: MAGIC.into(),
        version: VERSION.into(),
        flags: 0.into(),
        nr_modules: (modules.len() as u32).into(),
        modlist_paddr: if modules.is_empty() { 0 } else { modlist }.into(),
        cmdline_paddr: layout::CMDLINE.start.into(),
        rsdp_paddr: loaded.rsdp.into(),
        memmap_paddr: memmap_paddr.into(),
        memmap_entries: (memmap.len() as u32).into(),
        reserved: 0.into(),
    };
    Ok([info.as_bytes(), modules.as_bytes(), memmap.as_bytes()].concat())
}
