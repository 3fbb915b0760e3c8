//! What guests use that know that they have a host: the panic port (QEMU's docs/specs/pvpanic) and the generation
//! identifier (Microsoft, "Virtual Machine Generation ID").

use acpi_tables::Aml;
use acpi_tables::aml::{
    Device, Memory32Fixed, Method, Name, Notify, Package, Path, ResourceTemplate, Scope, ZERO,
};

use super::dsdt::io;
use super::parameters::GenerationId;

/// What [`Notify`] says when the identifier is another.
const CHANGED: u8 = 0x80;

/// Adds the port at which the guest says that it has panicked.
pub fn add_panic_port(port: u16, aml: &mut Vec<u8>) {
    let ports = io(port, port + 1);
    Device::new(
        "PEVT".into(),
        vec![
            &Name::new("_HID".into(), &"QEMU0001"),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&ports])),
        ],
    )
    .to_aml_bytes(aml);
}

/// Adds the generation identifier. Systems know it by its compatible id: the specification's, and Linux by one that fits
/// the rules for ids as well.
pub fn add_generation_id(generation: GenerationId, aml: &mut Vec<u8>) {
    let GenerationId { address, length, .. } = generation;
    let page = Memory32Fixed::new(false, address, length);
    Device::new(
        "VGEN".into(),
        vec![
            &Name::new("_HID".into(), &"VIVA0001"),
            &Name::new("_CID".into(), &Package::new(vec![&"VM_Gen_Counter", &"VMGENCTR"])),
            &Name::new("_DDN".into(), &"VM_Gen_Counter"),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&page])),
            // The address, its lower half first.
            &Name::new("ADDR".into(), &Package::new(vec![&address, &ZERO])),
        ],
    )
    .to_aml_bytes(aml);
}

/// The event by which the guest learns that the identifier is another; for the root of the name space.
pub fn generation_event(generation: GenerationId) -> Vec<u8> {
    let mut aml = Vec::new();
    let device = Path::new("\\_SB_.VGEN");
    let tell = Notify::new(&device, &CHANGED);
    let handler = format!("_E{:02X}", generation.gpe);
    let handler = Method::new(handler.as_str().into(), 0, false, vec![&tell]);
    Scope::new("\\_GPE".into(), vec![&handler]).to_aml_bytes(&mut aml);
    aml
}
