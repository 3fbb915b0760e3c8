//! The Multiple APIC Description Table (ACPI 6.5, 5.2.12).

use acpi_tables::sdt::Sdt;

use super::{AcpiParameters, OEM_ID, OEM_REVISION, OEM_TABLE_ID};

const REVISION: u8 = 5;
/// The common header, the local APIC address, and the flags.
const HEADER_SIZE: u32 = 44;
const LOCAL_APIC_ADDRESS: usize = 36;
const FLAGS: usize = 40;
/// Flag: there is a pair of 8259s besides.
const PCAT_COMPAT: u32 = 1;

/// Types of interrupt controller structures (table 5.21).
const LOCAL_APIC: u8 = 0;
const IO_APIC: u8 = 1;
const SOURCE_OVERRIDE: u8 = 2;
const LOCAL_APIC_NMI: u8 = 4;
const LOCAL_X2APIC: u8 = 9;
const LOCAL_X2APIC_NMI: u8 = 10;

/// Local APIC flags: the processor is there; it is not, but can be plugged in (ACPI 6.3 and later).
const ENABLED: u32 = 1;
const ONLINE_CAPABLE: u32 = 1 << 1;
/// The first local APIC id that a [`LOCAL_APIC`] structure cannot express: 255 means all of them.
const FIRST_X2APIC_ID: u32 = 255;

/// MPS INTI flags (table 5.26): as usual on the bus, which for ISA is edge-triggered and active high.
const CONFORMS: u16 = 0;
/// MPS INTI flags: level-triggered and active high.
const LEVEL_HIGH: u16 = 0xd;
const ISA_BUS: u8 = 0;
const LINT1: u8 = 1;

/// The table.
///
/// It is built byte by byte for the sake of PCAT_COMPAT, which the tables crate's MADT does not have.
pub fn build(parameters: &AcpiParameters) -> Vec<u8> {
    let mut madt = Sdt::new(*b"APIC", HEADER_SIZE, REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    madt.write_u32(LOCAL_APIC_ADDRESS, parameters.local_apic);
    madt.write_u32(FLAGS, PCAT_COMPAT);

    let mut structures = Vec::new();
    for id in 0..parameters.cpus {
        structures.extend(processor(id, parameters.is_present(id)));
    }
    let io_apic = parameters.io_apic;
    let (address, gsi_base) = (io_apic.address.to_le_bytes(), io_apic.gsi_base.to_le_bytes());
    add(&mut structures, IO_APIC, &[&[io_apic.id, 0], &address, &gsi_base]);
    let sci = parameters.fixed.sci;
    for (source, gsi, flags) in [(0, parameters.timer_gsi, CONFORMS), (sci, sci.into(), LEVEL_HIGH)] {
        add(
            &mut structures,
            SOURCE_OVERRIDE,
            &[&[ISA_BUS, source], &gsi.to_le_bytes(), &flags.to_le_bytes()],
        );
    }
    // NMI is wired to LINT1 of all processors.
    add(&mut structures, LOCAL_APIC_NMI, &[&[u8::MAX], &CONFORMS.to_le_bytes(), &[LINT1]]);
    if parameters.cpus > FIRST_X2APIC_ID {
        let everyone = u32::MAX.to_le_bytes();
        add(&mut structures, LOCAL_X2APIC_NMI, &[&CONFORMS.to_le_bytes(), &everyone, &[LINT1, 0, 0, 0]]);
    }
    madt.append_slice(&structures);
    madt.as_slice().to_vec()
}

/// The structure of a processor, which is there or could be.
pub(super) fn processor(id: u32, present: bool) -> Vec<u8> {
    let mut structure = Vec::new();
    let flags = &(if present { ENABLED } else { ONLINE_CAPABLE }).to_le_bytes();
    match u8::try_from(id) {
        Ok(small) if id < FIRST_X2APIC_ID => {
            add(&mut structure, LOCAL_APIC, &[&[small, small], flags]);
        }
        _ => {
            let id = &id.to_le_bytes();
            add(&mut structure, LOCAL_X2APIC, &[&[0, 0], id, flags, id]);
        }
    }
    structure
}

/// Adds a structure: its type, its length, its fields.
fn add(structures: &mut Vec<u8>, kind: u8, fields: &[&[u8]]) {
    let length: usize = 2 + fields.iter().map(|field| field.len()).sum::<usize>();
    structures.extend([kind, length as u8]);
    structures.extend(fields.iter().copied().flatten());
}
