//! The Multiboot information (3.3) and what it leads to.

use std::ops::Range;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::error::BootError;
use crate::initrd::Module;
use crate::layout;
use crate::load::Loaded;
use crate::map::Kind;

/// Which fields are there: memory, command line, modules, memory map, the loader's name.
const FLAGS: u32 = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9;
const LOADER_NAME: &[u8] = b"Vivarium\0";

#[derive(Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Information {
    pub flags: U32,
    pub mem_lower: U32,
    pub mem_upper: U32,
    pub boot_device: U32,
    pub cmdline: U32,
    pub mods_count: U32,
    pub mods_addr: U32,
    pub syms: [U32; 4],
    pub mmap_length: U32,
    pub mmap_addr: U32,
    pub drives_length: U32,
    pub drives_addr: U32,
    pub config_table: U32,
    pub boot_loader_name: U32,
    pub apm_table: U32,
    pub vbe: [U32; 4],
    /// Added later than the rest; not announced, and zero for those who look all the same.
    pub framebuffer: [U32; 7],
}

#[derive(Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct ModuleEntry {
    pub mod_start: U32,
    pub mod_end: U32,
    pub string: U32,
    pub reserved: U32,
}

#[derive(Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct MapEntry {
    /// Of what follows.
    pub size: U32,
    pub addr: U64,
    pub len: U64,
    pub kind: U32,
}

/// The bytes that go to `place`: the information, the list of modules, the memory map, strings.
pub fn build(place: &Range<u64>, modules: &[Module<'_>], loaded: &Loaded) -> Result<Vec<u8>, BootError> {
    let map: Vec<_> = loaded
        .map
        .iter()
        .map(|range| MapEntry {
            size: (size_of::<MapEntry>() as u32 - 4).into(),
            addr: range.start.into(),
            len: range.size.into(),
            kind: (range.kind as u32).into(),
        })
        .collect();
    // All of it lies in the first megabyte, and modules below 4 GiB.
    let mods_addr = place.start as u32 + size_of::<Information>() as u32;
    let mmap_addr = mods_addr + (modules.len() * size_of::<ModuleEntry>()) as u32;
    let mmap_length = size_of_val(map.as_slice()) as u32;
    let strings_addr = mmap_addr + mmap_length;

    let mut strings = LOADER_NAME.to_vec();
    let mut list = Vec::new();
    for (module, range) in modules.iter().zip(&loaded.modules) {
        if module.cmdline.contains('\0') {
            return Err(BootError::CmdlineZero);
        }
        list.push(ModuleEntry {
            mod_start: (range.start as u32).into(),
            mod_end: (range.end as u32).into(),
            string: (strings_addr + strings.len() as u32).into(),
            reserved: 0.into(),
        });
        strings.extend(module.cmdline.bytes().chain([0]));
    }
    let ram_from = |start: u64| {
        let range = loaded.map.iter().find(|range| range.kind == Kind::Ram && range.start == start);
        range.map_or(0, |range| u32::try_from(range.size >> 10).unwrap_or(u32::MAX))
    };
    let information = Information {
        flags: FLAGS.into(),
        mem_lower: ram_from(0).into(),
        mem_upper: ram_from(layout::HIGH_MEMORY).into(),
        cmdline: (layout::CMDLINE.start as u32).into(),
        mods_count: (list.len() as u32).into(),
        mods_addr: mods_addr.into(),
        mmap_length: mmap_length.into(),
        mmap_addr: mmap_addr.into(),
        boot_loader_name: strings_addr.into(),
        ..Information::default()
    };
    let bytes = [information.as_bytes(), list.as_bytes(), map.as_bytes(), &strings].concat();
    let room = place.end - place.start;
    if bytes.len() as u64 > room {
        return Err(BootError::ModulesTooMany { size: bytes.len() as u64, room });
    }
    Ok(bytes)
}
