//! The structures themselves (DSP0134, 7).

use std::ops::Range;

use super::structure::Structure;
use super::{SmbiosParameters, SystemIdentity};

/// Each structure's handle: its type, and a number for those of which there are several.
const BIOS: u16 = 0x0000;
const SYSTEM: u16 = 0x0100;
const CHASSIS: u16 = 0x0300;
const PROCESSOR: u16 = 0x0400;
const MEMORY_ARRAY: u16 = 0x1000;
const MEMORY_DEVICE: u16 = 0x1100;
const MEMORY_MAPPING: u16 = 0x1300;
const BOOT: u16 = 0x2000;
const END: u16 = 0x7f00;

/// A handle that names nothing: no cache, no information about errors.
const NO_CACHE: u16 = 0xffff;
const NO_ERROR_INFORMATION: u16 = 0xfffe;

const BIOS_VENDOR: &str = "Vivarium";
const BIOS_DATE: &str = "11/01/2026";
/// Where the BIOS would begin, as a segment.
const BIOS_SEGMENT: u16 = 0xe800;
/// Characteristics: none are told.
const BIOS_NOT_TOLD: u64 = 1 << 3;
/// The second byte of the extension: tables with content for the machine, which is virtual.
const BIOS_VIRTUAL: u8 = (1 << 4) | (1 << 2);

/// Many fields: other than what there is a number for.
const OTHER: u8 = 0x01;
/// A system that was switched on.
const POWER_SWITCH: u8 = 0x06;
/// A state that is safe, a security that is unknown.
const SAFE: u8 = 0x03;
const UNKNOWN: u8 = 0x02;

const CENTRAL_PROCESSOR: u8 = 0x03;
/// A socket with a processor, which is enabled.
const POPULATED_ENABLED: u8 = 0x41;
/// Characteristics: 64 bits; several cores; execute protection.
const PROCESSOR_64_BIT: u16 = 1 << 2;
const PROCESSOR_CORES: u16 = 1 << 3;
const PROCESSOR_NX: u16 = 1 << 5;

const SYSTEM_MEMORY: u8 = 0x03;
const NO_CORRECTION: u8 = 0x03;
const DIMM: u8 = 0x09;
const RAM: u8 = 0x07;
/// A size in MiB that stands in a field of its own.
const EXTENDED_SIZE: u16 = 0x7fff;
/// A capacity, or an address, in KiB that stands in a field of its own.
const EXTENDED_CAPACITY: u32 = 0x8000_0000;
const EXTENDED_ADDRESS: u32 = 0xffff_ffff;

/// All structures, in ascending order of type.
pub fn all(parameters: &SmbiosParameters) -> Vec<Vec<u8>> {
    let SmbiosParameters { identity, cpus, memory } = parameters;
    let size = memory.iter().map(|range| range.end - range.start).sum();
    let mut all = vec![
        bios(),
        system(identity),
        chassis(identity),
        processor(identity, *cpus),
        memory_array(size),
        memory_device(identity, size),
    ];
    all.extend((MEMORY_MAPPING..).zip(memory).map(|(handle, range)| memory_mapping(handle, range)));
    // No error was found when the system started.
    all.push(Structure::new(32, BOOT).bytes(&[0; 7]).finish());
    all.push(Structure::new(127, END).finish());
    all
}

/// BIOS information (7.1).
fn bios() -> Vec<u8> {
    Structure::new(0, BIOS)
        .text(BIOS_VENDOR)
        .text(env!("CARGO_PKG_VERSION"))
        .word(BIOS_SEGMENT)
        .text(BIOS_DATE)
        .bytes(&[0]) // 64 KiB
        .qword(BIOS_NOT_TOLD)
        .bytes(&[0, BIOS_VIRTUAL])
        .bytes(&[0xff; 4]) // no releases of BIOS or embedded controller
        .finish()
}

/// System information (7.2).
fn system(identity: &SystemIdentity) -> Vec<u8> {
    let mut uuid = identity.uuid;
    // The first three of its fields are little endian (7.2.1).
    uuid[..4].reverse();
    uuid[4..6].reverse();
    uuid[6..8].reverse();
    Structure::new(1, SYSTEM)
        .text(&identity.manufacturer)
        .text(&identity.product)
        .text(&identity.version)
        .text(&identity.serial)
        .bytes(&uuid)
        .bytes(&[POWER_SWITCH])
        .text(&identity.sku)
        .text(&identity.family)
        .finish()
}

/// System enclosure (7.4).
fn chassis(identity: &SystemIdentity) -> Vec<u8> {
    Structure::new(3, CHASSIS)
        .text(&identity.manufacturer)
        .bytes(&[OTHER])
        .text(&identity.version)
        .text(&identity.serial)
        .text("") // asset tag
        .bytes(&[SAFE, SAFE, SAFE, UNKNOWN])
        .dword(0)
        .bytes(&[0; 4]) // height, power cords, contained elements
        .text(&identity.sku)
        .finish()
}

/// Processor information (7.5): one socket with all vCPUs as its cores.
fn processor(identity: &SystemIdentity, cpus: u32) -> Vec<u8> {
    // More than 255, or than 65,534, stand in fields of their own, or nowhere (7.5.6).
    let cores = u8::try_from(cpus).unwrap_or(u8::MAX);
    let cores_2 = u16::try_from(cpus).unwrap_or(u16::MAX);
    let several = if cpus > 1 { PROCESSOR_CORES } else { 0 };
    Structure::new(4, PROCESSOR)
        .text("CPU 0")
        .bytes(&[CENTRAL_PROCESSOR, OTHER])
        .text(&identity.manufacturer)
        .qword(0) // CPUID leaf 1: the guest can ask for itself
        .text("virtual CPU")
        .bytes(&[0]) // voltage
        .bytes(&[0; 6]) // external clock, greatest and present speed: unknown
        .bytes(&[POPULATED_ENABLED, OTHER])
        .word(NO_CACHE)
        .word(NO_CACHE)
        .word(NO_CACHE)
        .bytes(&[0; 3]) // serial number, asset tag, part number
        .bytes(&[cores, cores, cores])
        .word(PROCESSOR_64_BIT | PROCESSOR_NX | several)
        .word(OTHER.into())
        .word(cores_2)
        .word(cores_2)
        .word(cores_2)
        .finish()
}

/// Physical memory array (7.17), with one device.
fn memory_array(size: u64) -> Vec<u8> {
    let kib = u32::try_from(size >> 10).ok().filter(|kib| *kib < EXTENDED_CAPACITY);
    Structure::new(16, MEMORY_ARRAY)
        .bytes(&[OTHER, SYSTEM_MEMORY, NO_CORRECTION])
        .dword(kib.unwrap_or(EXTENDED_CAPACITY))
        .word(NO_ERROR_INFORMATION)
        .word(1)
        .qword(if kib.is_some() { 0 } else { size })
        .finish()
}

/// Memory device (7.18): all of the memory, in whole MiB.
fn memory_device(identity: &SystemIdentity, size: u64) -> Vec<u8> {
    let mib = size >> 20;
    let small = u16::try_from(mib).ok().filter(|mib| *mib < EXTENDED_SIZE);
    let large = u32::try_from(mib).unwrap_or(u32::MAX >> 1);
    Structure::new(17, MEMORY_DEVICE)
        .word(MEMORY_ARRAY)
        .word(NO_ERROR_INFORMATION)
        .word(64) // bits
        .word(64)
        .word(small.unwrap_or(EXTENDED_SIZE))
        .bytes(&[DIMM, 0])
        .text("DIMM 0")
        .text("") // bank
        .bytes(&[RAM])
        .word(1 << 1) // other
        .word(0) // speed
        .text(&identity.manufacturer)
        .bytes(&[0; 3]) // serial number, asset tag, part number
        .bytes(&[0]) // ranks
        .dword(if small.is_some() { 0 } else { large })
        .bytes(&[0; 8]) // configured speed, voltages
        .finish()
}

/// Memory array mapped address (7.20): a range of RAM.
fn memory_mapping(handle: u16, range: &Range<u64>) -> Vec<u8> {
    let kib = |address: u64| u32::try_from(address >> 10).ok().filter(|kib| *kib < EXTENDED_ADDRESS);
    let last = range.end - 1;
    let (start, end, extended) = match (kib(range.start), kib(last)) {
        (Some(start), Some(end)) => (start, end, 0..0),
        _ => (EXTENDED_ADDRESS, EXTENDED_ADDRESS, range.start..last),
    };
    Structure::new(19, handle)
        .dword(start)
        .dword(end)
        .word(MEMORY_ARRAY)
        .bytes(&[1]) // devices side by side
        .qword(extended.start)
        .qword(extended.end)
        .finish()
}
