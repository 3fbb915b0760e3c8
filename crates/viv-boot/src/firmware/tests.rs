use viv_engine::memory::{HOLE_START, allocate};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::acpi::tests::parameters;

/// Does what firmware does with the files: places them at these addresses.
fn join(files: &FirmwareTables, rsdp_at: u64, tables_at: u64) -> (Vec<u8>, Vec<u8>) {
    let (mut rsdp, mut tables) = (files.rsdp.clone(), files.tables.clone());
    let u32_at = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let name =
        |bytes: &[u8]| String::from_utf8(bytes.split(|&byte| byte == 0).next().unwrap().into()).unwrap();
    for command in files.loader.chunks(128) {
        let file = if name(&command[4..60]) == RSDP { &mut rsdp } else { &mut tables };
        match u32_at(command, 0) {
            1 => assert!(u32_at(command, 60) <= 64),
            2 => {
                let base = if name(&command[60..116]) == RSDP { rsdp_at } else { tables_at };
                let (at, size) = (u32_at(command, 116), usize::from(command[120]));
                let mut pointer = [0; 8];
                pointer[..size].copy_from_slice(&file[at..at + size]);
                let pointer = u64::from_le_bytes(pointer) + base;
                file[at..at + size].copy_from_slice(&pointer.to_le_bytes()[..size]);
            }
            3 => {
                let (at, start, length) = (u32_at(command, 60), u32_at(command, 64), u32_at(command, 68));
                let sum = file[start..start + length].iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
                file[at] = file[at].wrapping_sub(sum);
            }
            other => panic!("command {other}"),
        }
    }
    (rsdp, tables)
}

#[test]
fn joined_tables_are_those_that_are_built_for_the_place() {
    let parameters = parameters();
    let files = tables(&parameters).unwrap();
    let place = 0x7f00_0000;
    let (rsdp, joined) = join(&files, 0xf_5000, place);
    let built = acpi::build(&parameters, place..place + 0x10_0000).unwrap();
    for table in built.iter() {
        if table.name == "RSDP" {
            assert_eq!(rsdp, table.bytes);
        } else {
            let at = (table.address - place) as usize;
            assert_eq!(joined[at..at + table.bytes.len()], table.bytes, "{}", table.name);
        }
    }
}

#[test]
fn the_map_of_ram_has_it_below_and_above_4_gib() {
    let memory = allocate(HOLE_START + (1 << 30)).unwrap();
    let entries: Vec<(u64, u64, u32)> = e820(&memory)
        .chunks(20)
        .map(|entry| {
            let u64_at = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().unwrap());
            (u64_at(0), u64_at(8), u32::from_le_bytes(entry[16..].try_into().unwrap()))
        })
        .collect();
    assert_eq!(entries, [(0, HOLE_START, 1), (1 << 32, 1 << 30, 1)]);
}

#[test]
fn images_end_at_4_gib_and_are_seen_below_1_mib() {
    assert_eq!(image_start(256 << 10).unwrap(), 0xfffc_0000);
    for size in [0, 4096, (64 << 10) + 1, 32 << 20] {
        assert!(image_start(size).is_err(), "{size:#x}");
    }
    let memory = allocate(2 << 20).unwrap();
    let mut image = vec![1; 256 << 10];
    image[128 << 10] = 2;
    shadow(&memory, &image).unwrap();
    let mut seen = [0; 2];
    memory.read_slice(&mut seen, GuestAddress(0xd_ffff)).unwrap();
    assert_eq!(seen, [0, 2]);
}
