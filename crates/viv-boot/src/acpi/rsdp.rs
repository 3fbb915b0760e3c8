//! The Root System Description Pointer (ACPI 6.5, 5.2.5.3).

use super::OEM_ID;

/// Its size, and that of the part that ACPI 1.0 knows.
const SIZE: usize = 36;
const FIRST_PART: usize = 20;
/// ACPI 2.0 and later: there is an XSDT.
const REVISION: u8 = 2;
/// Where the checksums of the first part and of all of it are.
const CHECKSUM: usize = 8;
const EXTENDED_CHECKSUM: usize = 32;

/// The pointer to these two tables.
pub fn build(rsdt: u32, xsdt: u64) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    bytes[..8].copy_from_slice(b"RSD PTR ");
    bytes[9..15].copy_from_slice(&OEM_ID);
    bytes[15] = REVISION;
    bytes[16..20].copy_from_slice(&rsdt.to_le_bytes());
    bytes[20..24].copy_from_slice(&(SIZE as u32).to_le_bytes());
    bytes[24..32].copy_from_slice(&xsdt.to_le_bytes());
    bytes[CHECKSUM] = checksum(&bytes[..FIRST_PART]);
    bytes[EXTENDED_CHECKSUM] = checksum(&bytes);
    bytes
}

/// What makes the sum of all bytes 0.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0_u8, |sum, &byte| sum.wrapping_sub(byte))
}
