//! The PCI host bridge in AML (PCI Firmware Specification 3.3, chapter 4).

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, Name, Package, PackageBuilder, ResourceTemplate,
    ZERO,
};

use super::{PciHost, PciInterrupt, dsdt};

/// Adds the host bridge of segment 0.
///
/// It has no _OSC: without one, a system leaves the PCI Express features that need its consent alone.
pub fn add_host_bridge(pci: &PciHost, aml: &mut Vec<u8>) {
    let config = dsdt::io(pci.config_ports.start, pci.config_ports.end);
    let buses = AddressSpace::new_bus_number(0, u16::from(pci.last_bus));
    let ports = AddressSpace::new_io(pci.io.start, pci.io.end - 1, None);
    let low: Vec<_> =
        pci.mmio32.iter().map(|range| memory(range.start as u32, (range.end - 1) as u32)).collect();
    let high = pci.mmio64.as_ref().map(|range| memory(range.start, range.end - 1));
    let mut resources: Vec<&dyn Aml> = vec![&config, &buses, &ports];
    resources.extend(low.iter().map(|window| window as &dyn Aml));
    resources.extend(high.as_ref().map(|window| window as &dyn Aml));

    Device::new(
        "PCI0".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0A08")),
            &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_SEG".into(), &ZERO),
            &Name::new("_BBN".into(), &ZERO),
            &Name::new("_CRS".into(), &ResourceTemplate::new(resources)),
            &Name::new("_PRT".into(), &routing_table(&pci.interrupts)),
        ],
    )
    .to_aml_bytes(aml);
}

fn memory<T: Default>(first: T, last: T) -> AddressSpace<T> {
    AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, first, last, None)
}

/// The PCI routing table (ACPI 6.5, 6.2.13): the slot with all its functions, the pin, no link device, the GSI.
fn routing_table(interrupts: &[PciInterrupt]) -> PackageBuilder {
    let mut table = PackageBuilder::new();
    for PciInterrupt { slot, pin, gsi } in interrupts {
        let functions = (u32::from(*slot) << 16) | 0xffff;
        table.add_element(&Package::new(vec![&functions, pin, &ZERO, gsi]));
    }
    table
}
