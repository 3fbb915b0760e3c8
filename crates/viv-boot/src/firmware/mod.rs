//! What firmware for PCs is given: where its image lies, what it is told of RAM, and the tables that it places.
//!
//! SeaBIOS and OVMF take this from QEMU's firmware configuration device, in files whose names are theirs.

mod loader;

use std::ops::Range;

use viv_engine::GuestMemory;

use crate::acpi::{self, AcpiError, AcpiParameters};
use crate::error::BootError;
use crate::map;

use loader::{Loader, Zone};

/// Where images end: at 4 GiB, 16 bytes after the instruction that processors begin with.
const IMAGE_END: u64 = 1 << 32;
/// Where the copy of an image's last part ends that real mode sees.
const SHADOW_END: u64 = 1 << 20;
/// How much of an image real mode sees.
const SHADOW_SIZE: u64 = 128 << 10;
/// The least that an image can have.
const MIN_IMAGE: u64 = 64 << 10;
/// The most bytes that an image can have.
pub const MAX_IMAGE: u64 = 16 << 20;
/// Images are made of pages.
const PAGE: u64 = 4096;

/// The file with the RSDP.
pub const RSDP: &str = "etc/acpi/rsdp";
/// The file with all other ACPI tables.
pub const TABLES: &str = "etc/acpi/tables";
/// The file that says how to join them.
pub const LOADER: &str = "etc/table-loader";
/// The file with the map of RAM.
pub const E820: &str = "etc/e820";
/// The file with the address behind all memory, which BARs are placed behind. Its 8 bytes are little-endian.
pub const RESERVED_END: &str = "etc/reserved-memory-end";

/// Where an image of `size` bytes begins.
///
/// # Errors
/// When no firmware has this size.
pub fn image_start(size: u64) -> Result<u64, BootError> {
    if (MIN_IMAGE..=MAX_IMAGE).contains(&size) && size.is_multiple_of(PAGE) {
        Ok(IMAGE_END - size)
    } else {
        Err(BootError::FirmwareSize { size })
    }
}

/// Copies the last part of an image below 1 MiB, where firmware that starts in real mode goes on.
///
/// # Errors
/// When there is no RAM.
pub fn shadow(memory: &GuestMemory, image: &[u8]) -> Result<(), BootError> {
    let last = &image[image.len().saturating_sub(SHADOW_SIZE as usize)..];
    map::write(memory, "firmware", SHADOW_END - last.len() as u64, last)
}

/// The content of [`E820`]: RAM below 4 GiB as if nothing were taken out of its first megabyte, which firmware knows, and
/// RAM above.
#[must_use]
pub fn e820(memory: &GuestMemory) -> Vec<u8> {
    let low = 0..map::low_ram_end(memory);
    let high = map::ram(memory).filter(|range| range.start >= IMAGE_END);
    let entries = std::iter::once(low).chain(high);
    entries
        .flat_map(|range| {
            let numbers = [range.start, range.end - range.start].map(u64::to_le_bytes);
            [numbers.as_flattened(), &(map::Kind::Ram as u32).to_le_bytes()].concat()
        })
        .collect()
}

/// The tables, in the three files that firmware joins them from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirmwareTables {
    /// Content of [`RSDP`].
    pub rsdp: Vec<u8>,
    /// Content of [`TABLES`].
    pub tables: Vec<u8>,
    /// Content of [`LOADER`].
    pub loader: Vec<u8>,
}

/// Room for a machine's tables.
const ROOM: Range<u64> = 0..1 << 20;
/// Where a table's checksum is.
const CHECKSUM: usize = 9;
/// Pointers in the FADT, and their sizes: FIRMWARE_CTRL, DSDT, X_DSDT (ACPI 6.5, table 5.9).
const FADT_POINTERS: [(usize, u8); 3] = [(36, 4), (40, 4), (140, 8)];
/// The first pointer of the RSDT and of the XSDT.
const ROOT_POINTERS: usize = 36;
/// The RSDP's pointers to the RSDT and the XSDT with their sizes, its two checksums, and how much each is of (5.2.5.3).
const RSDP_POINTERS: [(usize, u8); 2] = [(16, 4), (24, 8)];
const RSDP_CHECKSUMS: [(usize, usize); 2] = [(8, 20), (32, 36)];

/// Makes the ACPI tables of a machine for firmware to place.
///
/// # Errors
/// When a parameter cannot be expressed.
pub fn tables(parameters: &AcpiParameters) -> Result<FirmwareTables, AcpiError> {
    // Placed from 0 on, every pointer is the offset to which firmware adds the file's address.
    let placed = acpi::build(parameters, ROOM)?;
    let mut loader = Loader::default();
    loader.allocate(RSDP, 16, Zone::Low);
    loader.allocate(TABLES, 64, Zone::High);

    let mut rsdp = Vec::new();
    let mut tables = Vec::new();
    for table in placed.iter() {
        let start = table.address as usize;
        let bytes = table.bytes.as_slice();
        if table.name == "RSDP" {
            rsdp = bytes.to_vec();
            continue;
        }
        tables.resize(start, 0);
        tables.extend_from_slice(bytes);
        let pointers: Vec<(usize, u8)> = match table.name {
            "FADT" => FADT_POINTERS.to_vec(),
            "RSDT" => (ROOT_POINTERS..bytes.len()).step_by(4).map(|at| (at, 4)).collect(),
            "XSDT" => (ROOT_POINTERS..bytes.len()).step_by(8).map(|at| (at, 8)).collect(),
            _ => continue,
        };
        for (at, size) in pointers {
            loader.add_pointer(TABLES, TABLES, start + at, size);
        }
        tables[start + CHECKSUM] = 0;
        loader.add_checksum(TABLES, start + CHECKSUM, start..start + bytes.len());
    }
    for (at, size) in RSDP_POINTERS {
        loader.add_pointer(RSDP, TABLES, at, size);
    }
    for (at, length) in RSDP_CHECKSUMS {
        rsdp[at] = 0;
        loader.add_checksum(RSDP, at, 0..length);
    }
    Ok(FirmwareTables { rsdp, tables, loader: loader.into_bytes() })
}

#[cfg(test)]
mod tests;
