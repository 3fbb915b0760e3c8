//! The System Resource Affinity Table (ACPI 6.5, 5.2.16): up to where memory can be plugged in, which systems want to know
//! before it is. All is of one node.

use acpi_tables::sdt::Sdt;

use super::parameters::MemoryLayout;
use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};

const REVISION: u8 = 3;
/// The common header and 12 reserved bytes, the first of which is 1.
const HEADER_SIZE: u32 = 48;
const RESERVED_ONE: usize = 36;

/// Types of structures, and their lengths.
const LOCAL_APIC: [u8; 2] = [0, 16];
const MEMORY: [u8; 2] = [1, 40];

/// Flags of all structures, and of memory.
const ENABLED: u32 = 1;
const HOT_PLUGGABLE: u32 = 1 << 1;

/// The table of a machine with so many processors, those that can be plugged in included.
pub fn build(cpus: u32, memory: &MemoryLayout) -> Vec<u8> {
    let mut srat = Sdt::new(*b"SRAT", HEADER_SIZE, REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    srat.write_u32(RESERVED_ONE, 1);
    // Those beyond need no entry: without, they are of the first node.
    for id in 0..u8::try_from(cpus).unwrap_or(u8::MAX) {
        srat.append_slice(&LOCAL_APIC);
        srat.append_slice(&[0, id]);
        srat.append_slice(&ENABLED.to_le_bytes());
        srat.append_slice(&[0; 8]);
    }
    let ram = memory.ram.iter().map(|range| (range, ENABLED));
    for (range, flags) in ram.chain([(&memory.room, ENABLED | HOT_PLUGGABLE)]) {
        srat.append_slice(&MEMORY);
        srat.append_slice(&[0; 6]);
        srat.append_slice(&range.start.to_le_bytes());
        srat.append_slice(&(range.end - range.start).to_le_bytes());
        srat.append_slice(&[0; 4]);
        srat.append_slice(&flags.to_le_bytes());
        srat.append_slice(&[0; 8]);
    }
    srat.as_slice().to_vec()
}
