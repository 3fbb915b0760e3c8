//! The Differentiated System Description Table (ACPI 6.5, 5.2.11.1): the devices, in AML.

use acpi_tables::Aml;
use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, ResourceTemplate, Scope, ZERO,
};
use acpi_tables::sdt::Sdt;

use super::{AcpiParameters, OEM_ID, OEM_REVISION, OEM_TABLE_ID, Ps2, hosted, pci, processors};

/// Revision 2 and later: integers have 64 bits.
const REVISION: u8 = 2;
const HEADER_SIZE: u32 = 36;

/// The table.
pub fn build(parameters: &AcpiParameters) -> Vec<u8> {
    let mut devices = Vec::new();
    pci::add_host_bridge(&parameters.pci, &mut devices);
    add_board(parameters, &mut devices);
    for (number, line) in (1_u8..).zip(&parameters.serial) {
        let ports = [io(line.ports.start, line.ports.end)];
        add_isa_device(&format!("COM{number}"), "PNP0501", number, &ports, line.gsi, &mut devices);
    }
    if let Some(rtc) = &parameters.rtc {
        add_isa_device("RTC_", "PNP0B00", 0, &[io(rtc.ports.start, rtc.ports.end)], rtc.gsi, &mut devices);
    }
    if let Some(Ps2 { ports, keyboard_gsi, mouse_gsi }) = parameters.ps2 {
        let ports = ports.map(|port| io(port, port + 1));
        add_isa_device("KBD_", "PNP0303", 0, &ports, keyboard_gsi, &mut devices);
        // The ports are the keyboard's.
        add_isa_device("MOU_", "PNP0F13", 0, &[], mouse_gsi, &mut devices);
    }
    if let Some(port) = parameters.panic_port {
        hosted::add_panic_port(port, &mut devices);
    }
    if let Some(generation) = parameters.generation {
        hosted::add_generation_id(generation, &mut devices);
    }
    let hotplug = parameters.cpu_hotplug.as_ref();
    processors::add(parameters.cpus, hotplug, &mut devices);

    let mut dsdt = Sdt::new(*b"DSDT", HEADER_SIZE, REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    dsdt.append_slice(&Scope::raw("\\_SB_".into(), devices));
    if let Some(hotplug) = hotplug {
        dsdt.append_slice(&processors::event(hotplug));
    }
    if let Some(generation) = parameters.generation {
        dsdt.append_slice(&hosted::generation_event(generation));
    }
    dsdt.append_slice(&power_off(parameters.fixed.sleep_type_s5));
    dsdt.as_slice().to_vec()
}

/// What to write into PM1a_CNT.SLP_TYP to power off (7.4.2.5).
fn power_off(sleep_type: u8) -> Vec<u8> {
    let mut aml = Vec::new();
    let values = Package::new(vec![&sleep_type, &sleep_type, &ZERO, &ZERO]);
    Name::new("\\_S5_".into(), &values).to_aml_bytes(&mut aml);
    aml
}

/// What of the board no device claims: the ECAM, which systems do not use unless it is claimed here (PCI
/// Firmware Specification 3.3, 4.1.2), and its ports.
fn add_board(parameters: &AcpiParameters, aml: &mut Vec<u8>) {
    let ecam = parameters.pci.ecam();
    let memory = Memory32Fixed::new(true, ecam.start as u32, (ecam.end - ecam.start) as u32);
    let ports: Vec<_> = parameters.board_ports.iter().map(|range| io(range.start, range.end)).collect();
    let mut resources: Vec<&dyn Aml> = vec![&memory];
    resources.extend(ports.iter().map(|port| port as &dyn Aml));
    Device::new(
        "BRD0".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0C02")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_CRS".into(), &ResourceTemplate::new(resources)),
        ],
    )
    .to_aml_bytes(aml);
}

fn add_isa_device(name: &str, id: &str, uid: u8, ports: &[IO], gsi: u32, aml: &mut Vec<u8>) {
    // Consumer, edge-triggered, active high, not shared.
    let interrupt = Interrupt::new(true, true, false, false, gsi);
    let mut resources: Vec<&dyn Aml> = ports.iter().map(|port| port as &dyn Aml).collect();
    resources.push(&interrupt);
    Device::new(
        name.into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new(id)),
            &Name::new("_UID".into(), &uid),
            &Name::new("_CRS".into(), &ResourceTemplate::new(resources)),
        ],
    )
    .to_aml_bytes(aml);
}

/// Fixed ports; [`AcpiParameters::check`] has found their number to fit.
pub(super) fn io(start: u16, end: u16) -> IO {
    IO::new(start, start, 1, (end - start) as u8)
}
