//! What memory the guest has, and what of it is free to use.

use std::fmt::Write as _;
use std::ops::Range;

use viv_engine::GuestMemory;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::error::BootError;
use crate::layout::{HIGH_MEMORY, LOW_RAM_END};

/// What a range of addresses is to the guest. The numbers are those of E820 (ACPI 6.5, table 15.4), which
/// PVH uses as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// RAM, free to use.
    Ram = 1,
    /// Not to be touched, and no place for devices.
    Reserved = 2,
}

/// A range of guest-physical addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryRange {
    pub start: u64,
    pub size: u64,
    pub kind: Kind,
}

impl MemoryRange {
    const fn new(range: &Range<u64>, kind: Kind) -> Self {
        Self { start: range.start, size: range.end - range.start, kind }
    }
}

/// The ranges of RAM there are, in ascending order and with something between them, whatever they are made of.
pub fn ram(memory: &GuestMemory) -> impl Iterator<Item = Range<u64>> {
    let range = |start: u64, length| start..start.saturating_add(length);
    let mut regions = memory.iter().map(move |region| range(region.start_addr().0, region.len())).peekable();
    std::iter::from_fn(move || {
        let mut range = regions.next()?;
        while let Some(next) = regions.next_if(|next| next.start == range.end) {
            range.end = next.end;
        }
        Some(range)
    })
}

/// The map to hand to the guest: RAM but for the last 384 KiB below 1 MiB, which hold the tables and are no
/// RAM on any PC, and the ranges that the caller reserves.
pub fn memory_map(memory: &GuestMemory, reserved: &[Range<u64>]) -> Vec<MemoryRange> {
    let hole = LOW_RAM_END..HIGH_MEMORY;
    let mut map = vec![MemoryRange::new(&hole, Kind::Reserved)];
    map.extend(reserved.iter().map(|range| MemoryRange::new(range, Kind::Reserved)));
    for region in ram(memory) {
        let below = region.start..region.end.min(hole.start);
        let above = region.start.max(hole.end)..region.end;
        map.extend(
            [below, above]
                .iter()
                .filter(|part| !part.is_empty())
                .map(|part| MemoryRange::new(part, Kind::Ram)),
        );
    }
    map.sort_by_key(|range| range.start);
    map
}

/// Whether `range` is all RAM.
pub fn is_ram(memory: &GuestMemory, range: &Range<u64>) -> bool {
    ram(memory).any(|region| region.start <= range.start && range.end <= region.end)
}

/// Where the RAM ends in which kernels lie: that from 1 MiB on.
pub fn low_ram_end(memory: &GuestMemory) -> u64 {
    ram(memory).find(|region| region.contains(&HIGH_MEMORY)).map_or(0, |region| region.end)
}

/// What RAM there is, as text.
pub fn describe_ram(memory: &GuestMemory) -> String {
    let mut text = String::new();
    for region in ram(memory) {
        let separator = if text.is_empty() { "" } else { " and " };
        // Writing to a string does not fail.
        let _ = write!(text, "{separator}{:#x} to {:#x}", region.start, region.end);
    }
    text
}

/// Writes `bytes` at `address`; `what` they are is for the error.
pub fn write(memory: &GuestMemory, what: &'static str, address: u64, bytes: &[u8]) -> Result<(), BootError> {
    memory.write_slice(bytes, GuestAddress(address)).map_err(|source| BootError::Write {
        what,
        address,
        source,
    })
}

/// Writes `size` zeros at `address`.
pub fn write_zeros(
    memory: &GuestMemory,
    what: &'static str,
    address: u64,
    size: u64,
) -> Result<(), BootError> {
    static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
    let mut done = 0;
    while done < size {
        let step = (size - done).min(ZEROS.len() as u64);
        write(memory, what, address + done, &ZEROS[..step as usize])?;
        done += step;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use viv_engine::memory::{HOLE_END, HOLE_START, allocate};

    use super::*;

    #[test]
    fn the_map_covers_ram_around_both_holes() {
        let memory = allocate(HOLE_START + (16 << 20)).unwrap();
        let ecam = 0xe000_0000..0xf000_0000;
        let map = memory_map(&memory, std::slice::from_ref(&ecam));
        let ram = |range: Range<u64>| MemoryRange::new(&range, Kind::Ram);
        let reserved = |range: Range<u64>| MemoryRange::new(&range, Kind::Reserved);
        assert_eq!(
            map,
            [
                ram(0..LOW_RAM_END),
                reserved(LOW_RAM_END..HIGH_MEMORY),
                ram(HIGH_MEMORY..HOLE_START),
                reserved(ecam),
                ram(HOLE_END..HOLE_END + (16 << 20)),
            ]
        );
    }

    #[test]
    fn ram_ends_where_its_region_ends() {
        let memory = allocate(2 << 20).unwrap();
        assert!(is_ram(&memory, &(0xc_0000..2 << 20)));
        assert!(!is_ram(&memory, &(0x1f_0000..0x20_0001)));
        assert!(!is_ram(&memory, &(0x9_f000..0xc_1000)));
        assert_eq!(low_ram_end(&memory), 2 << 20);
        assert_eq!(describe_ram(&memory), "0x0 to 0xa0000 and 0xc0000 to 0x200000");
    }

    #[test]
    fn ram_in_two_pieces_is_one_range() {
        let piece = |start, length| (GuestAddress(start), length, None);
        let pieces = [piece(0, 0x1000), piece(0xc_0000, 0x14_0000), piece(0x20_0000, 0x20_0000)];
        let memory = GuestMemory::from_ranges_with_files(&pieces).unwrap();
        assert_eq!(ram(&memory).collect::<Vec<_>>(), [0..0x1000, 0xc_0000..0x40_0000]);
        assert!(is_ram(&memory, &(0x10_0000..0x30_0000)));
        assert_eq!(low_ram_end(&memory), 0x40_0000);
    }

    #[test]
    fn zeros_reach_their_end_and_no_further() {
        let memory = allocate(1 << 20).unwrap();
        write(&memory, "test", 0x1000, &[0xff; 0x2_0002]).unwrap();
        write_zeros(&memory, "test", 0x1001, 0x2_0000).unwrap();
        let mut edge = [0; 2];
        memory.read_slice(&mut edge, GuestAddress(0x1000)).unwrap();
        assert_eq!(edge, [0xff, 0]);
        memory.read_slice(&mut edge, GuestAddress(0x2_1000)).unwrap();
        assert_eq!(edge, [0, 0xff]);
    }
}
