//! ACPI tables (ACPI 6.5): how the machine describes itself to its guest.
//!
//! The RSDP, by the XSDT or, for systems that know 32-bit pointers alone, the RSDT, leads to the FADT (fixed registers: power button, sleep, reset, timer), with FACS and DSDT
//! (PCI, serial lines, RTC, processors, in AML), the MADT (interrupt controllers), the MCFG (PCI
//! configuration space in memory), the HPET table, the WDAT (watchdog), and the SRAT where memory can be plugged in. All they
//! say comes from [`AcpiParameters`].

mod dsdt;
mod fadt;
mod hosted;
mod hpet;
mod madt;
mod parameters;
mod pci;
mod processors;
mod rsdp;
mod srat;
mod wdat;

#[cfg(test)]
pub(crate) mod tests;

use std::ops::Range;

use acpi_tables::Aml;
use acpi_tables::facs::FACS;
use acpi_tables::mcfg::MCFG;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;

pub use parameters::{
    AcpiParameters, CpuHotplug, FixedHardware, GenerationId, GpeBlock, Hpet, IoApic, IoWindow, MemoryLayout,
    PciHost, PciInterrupt, Ps2, SerialLine, SmiCommands, Watchdog,
};

const OEM_ID: [u8; 6] = *b"VIVARI";
const OEM_TABLE_ID: [u8; 8] = *b"VIVARIUM";
const OEM_REVISION: u32 = 1;

/// The RSDT's header and its revision (5.2.7).
const RSDT_HEADER_SIZE: u32 = 36;
const RSDT_REVISION: u8 = 1;

/// Tables begin at multiples of this many bytes: the RSDP needs 16, the FACS 64.
const ALIGNMENT: u64 = 64;

/// Why a machine cannot be described.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AcpiError {
    /// A number that is out of the range that the tables can express.
    #[error("the {what} is {value:#x}, which no ACPI table can express: it must be {rule}")]
    OutOfRange {
        /// What it is.
        what: &'static str,
        /// Its value.
        value: u64,
        /// What it must be.
        rule: &'static str,
    },
    /// A range that ends before it begins, is empty, or ends too high.
    #[error("the {what} is {start:#x} to {end:#x}: it must not be empty and must end at {limit:#x} or below")]
    Window {
        /// What it is.
        what: &'static str,
        /// Its start.
        start: u64,
        /// The address after its last.
        end: u64,
        /// Where it must end.
        limit: u64,
    },
    /// The tables need more room than there is.
    #[error("the ACPI tables need memory to {end:#x}, their room ends at {limit:#x}")]
    NoRoom {
        /// Where they would end.
        end: u64,
        /// Where they must end.
        limit: u64,
    },
}

/// A table and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its name in the specification.
    pub name: &'static str,
    /// Its guest-physical address.
    pub address: u64,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// All tables of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcpiTables {
    tables: Vec<Table>,
    rsdp: u64,
}

impl AcpiTables {
    /// The tables, in ascending order of address.
    pub fn iter(&self) -> impl Iterator<Item = &Table> {
        self.tables.iter()
    }

    /// The address of the RSDP, from which all others are found.
    #[must_use]
    pub fn rsdp(&self) -> u64 {
        self.rsdp
    }
}

/// Makes the tables of a machine for a place in the first 4 GiB. The RSDP is at its beginning, which must be
/// a multiple of 64.
///
/// # Errors
/// When a parameter cannot be expressed, or the place is too small.
pub fn build(parameters: &AcpiParameters, place: Range<u64>) -> Result<AcpiTables, AcpiError> {
    parameters.check()?;
    // The RSDP comes first and leads to what comes last.
    let rsdp = place.start;
    let mut tables = Placer { next: rsdp + ALIGNMENT, tables: Vec::new() };

    let facs = tables.add("FACS", bytes_of(&FACS::new()));
    let dsdt = tables.add("DSDT", dsdt::build(parameters));
    let mut entries = vec![
        tables.add("FADT", bytes_of(&fadt::build(parameters, facs, dsdt))),
        tables.add("MADT", madt::build(parameters)),
        tables.add("MCFG", bytes_of(&mcfg(&parameters.pci))),
    ];
    if let Some(hpet) = parameters.hpet {
        entries.push(tables.add("HPET", hpet::build(hpet)));
    }
    if let Some(watchdog) = &parameters.watchdog {
        entries.push(tables.add("WDAT", wdat::build(watchdog)));
    }
    if let Some(memory) = &parameters.memory {
        entries.push(tables.add("SRAT", srat::build(parameters.cpus, memory)));
    }
    let mut rsdt = Sdt::new(*b"RSDT", RSDT_HEADER_SIZE, RSDT_REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    for entry in entries {
        rsdt.append_slice(&(entry as u32).to_le_bytes());
        xsdt.add_entry(entry);
    }
    let rsdt = tables.add("RSDT", rsdt.as_slice().to_vec());
    let xsdt = tables.add("XSDT", bytes_of(&xsdt));

    if tables.next > place.end {
        return Err(AcpiError::NoRoom { end: tables.next, limit: place.end });
    }
    let root = Table { name: "RSDP", address: rsdp, bytes: rsdp::build(rsdt as u32, xsdt).to_vec() };
    tables.tables.insert(0, root);
    Ok(AcpiTables { tables: tables.tables, rsdp })
}

/// Gives each table the next place.
struct Placer {
    next: u64,
    tables: Vec<Table>,
}

impl Placer {
    fn add(&mut self, name: &'static str, bytes: Vec<u8>) -> u64 {
        let address = self.next;
        self.next = (address + bytes.len() as u64).next_multiple_of(ALIGNMENT);
        self.tables.push(Table { name, address, bytes });
        address
    }
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn mcfg(pci: &PciHost) -> MCFG {
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    mcfg.add_ecam(pci.ecam_base, 0, 0, pci.last_bus);
    mcfg
}
