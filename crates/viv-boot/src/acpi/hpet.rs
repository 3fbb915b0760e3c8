//! The HPET description table (IA-PC HPET specification 1.0a, 3.2.4).

use acpi_tables::sdt::Sdt;

use super::{Hpet, OEM_ID, OEM_REVISION, OEM_TABLE_ID};

const REVISION: u8 = 1;
const SIZE: u32 = 56;
/// Offsets: hardware id; the address's kind, its width in bits, and itself; the least period without lost interrupts.
const BLOCK_ID: usize = 36;
const ADDRESS_SPACE: usize = 40;
const WIDTH: usize = 41;
const ADDRESS: usize = 44;
const LEAST_PERIOD: usize = 53;
/// Memory.
const SYSTEM_MEMORY: u8 = 0;
/// In ticks of the main counter: what its interrupts need on their way.
const TICKS: u16 = 10_000;

/// The table.
pub fn build(hpet: Hpet) -> Vec<u8> {
    let mut table = Sdt::new(*b"HPET", SIZE, REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.write_u32(BLOCK_ID, hpet.block_id);
    table.write_u8(ADDRESS_SPACE, SYSTEM_MEMORY);
    table.write_u8(WIDTH, 64);
    table.write_u64(ADDRESS, hpet.address.into());
    table.write_u16(LEAST_PERIOD, TICKS);
    table.as_slice().to_vec()
}
