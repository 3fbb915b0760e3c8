use std::error::Error;

use viv_engine::memory::allocate;
use vm_memory::{Bytes, GuestAddress};

use super::fixtures::{
    BSS, ENTRY, PACKINGS, PVH_ENTRY, bzimage, bzimage_around, content, elf32, elf64, pack,
};
use super::*;
use crate::acpi::tests::parameters;
use crate::{BootParameters, SystemIdentity, load};

fn refuse(content: Vec<u8>) -> KernelError {
    Kernel::from_bytes(content).map(|kernel| panic!("{kernel:?} was taken")).unwrap_err()
}

fn machine() -> BootParameters {
    BootParameters { protocol: None, acpi: parameters(), identity: SystemIdentity::default() }
}

fn assert_is_the_fixture(kernel: &Kernel) {
    let [segment] = kernel.segments() else { panic!("{:?}", kernel.segments()) };
    assert_eq!((segment.address, segment.size), (ENTRY, content().len() as u64 + BSS));
    assert!(kernel.content(segment) == content());
    assert_eq!((kernel.entry(), kernel.pvh_entry()), (ENTRY, Some(PVH_ENTRY)));
}

#[test]
fn every_packing_of_a_bzimage_is_unpacked() {
    for packing in PACKINGS {
        let kernel =
            Kernel::from_bytes(bzimage(packing)).unwrap_or_else(|error| panic!("{packing}: {error}"));
        assert_is_the_fixture(&kernel);
        assert_eq!(kernel.class(), ElfClass::Elf64);
        assert_eq!(kernel.setup_header().unwrap().cmdline_size, 2047);
    }
}

#[test]
fn elf_images_are_taken_plain_and_packed() {
    assert_is_the_fixture(&Kernel::from_bytes(elf64(true)).unwrap());
    assert_eq!(Kernel::from_bytes(elf64(false)).unwrap().pvh_entry(), None);
    let kernel = Kernel::from_bytes(elf32()).unwrap();
    assert_is_the_fixture(&kernel);
    assert_eq!(kernel.class(), ElfClass::Elf32);
    assert!(!kernel.is_high_half());
    for packing in PACKINGS {
        assert_is_the_fixture(&Kernel::from_bytes(pack(packing, &elf64(true))).unwrap());
        assert_is_the_fixture(&Kernel::from_bytes(pack(packing, &bzimage(Packing::Zstd))).unwrap());
    }
}

#[test]
fn a_file_is_read_from_its_beginning_each_time() {
    let mut file = tempfile::tempfile().unwrap();
    io::Write::write_all(&mut file, &bzimage(Packing::Gzip)).unwrap();
    for _ in 0..2 {
        assert_is_the_fixture(&Kernel::from_file(&file).unwrap());
    }
}

#[test]
fn what_is_no_kernel_is_named() {
    for (content, message) in [
        (&b""[..], "not a kernel: the file is empty"),
        (
            b"#!/bin/sh -e\n",
            "not a kernel: it starts with \"#!/bin/s\", like neither a Linux bzImage, an ELF image nor one of \
             them packed",
        ),
        (
            &[0, 1, 2],
            "not a kernel: it starts with the bytes 00 01 02, like neither a Linux bzImage, an ELF image nor \
             one of them packed",
        ),
    ] {
        assert_eq!(refuse(content.to_vec()).to_string(), message);
    }
    let mut other = elf64(true);
    other[18] = 183;
    assert_eq!(refuse(other).to_string(), "not a kernel: an ELF image for another processor (machine 183)");
    let mut library = elf64(true);
    library[16] = 3;
    assert_eq!(
        refuse(library).to_string(),
        "not a kernel: an ELF file of type 3, where an executable has type 2"
    );
    assert!(matches!(refuse(pack(Packing::Gzip, b"text, packed")), KernelError::NotAKernel(_)));
}

#[test]
fn packings_without_a_decoder_are_named() {
    let error = refuse(bzimage(Packing::Lzo));
    assert_eq!(error.to_string(), "the kernel is packed with lzo, which cannot be unpacked here");
    let error = refuse(bzimage_around(b"\x01\x02\x03\x04\x05\x06\x07\x08\x09"));
    assert_eq!(
        error.to_string(),
        "the kernel's payload starts with the bytes 01 02 03 04 05 06 07 08, which is no known packing"
    );
}

#[test]
fn a_header_without_a_payload_is_no_kernel() {
    let error = refuse(bzimage_around(b""));
    assert_eq!(error.to_string(), "not a kernel: it has the header of a Linux bzImage, but no Linux in it");
}

#[test]
fn an_old_boot_protocol_is_refused() {
    let mut file = bzimage(Packing::Gzip);
    file[0x206] = 7;
    assert!(matches!(refuse(file), KernelError::OldProtocol { major: 2, minor: 7 }));
}

#[test]
fn a_wrong_size_at_the_payload_s_end_is_noticed() {
    for packing in PACKINGS {
        let mut file = bzimage(packing);
        *file.last_mut().unwrap() ^= 1;
        let error = refuse(file);
        // gzip's own check comes first.
        assert!(
            matches!(error, KernelError::SizeMismatch { .. })
                || packing == Packing::Gzip && matches!(error, KernelError::Damaged { .. }),
            "{packing}: {error}"
        );
    }
}

#[test]
fn truncation_is_called_so() {
    let error = refuse(elf64(true)[..0x200].to_vec());
    assert_eq!(
        error.to_string(),
        "the kernel's ELF image is truncated: its segment lies beyond its end at byte 512"
    );
    let file = bzimage(Packing::Xz);
    let error = refuse(file[..file.len() - 1].to_vec());
    let expected = format!(
        "the kernel file is truncated: its payload ends at byte {}, the file at byte {}",
        file.len(),
        file.len() - 1
    );
    assert_eq!(error.to_string(), expected);
    let packed = pack(Packing::Zstd, &elf64(true));
    let error = refuse(packed[..packed.len() / 2].to_vec());
    assert_eq!(error.to_string(), "cannot unpack the kernel's zstd data: they are damaged or cut off");
    assert!(error.source().is_some());
}

#[test]
fn any_truncation_of_any_packing_is_an_error() {
    for packing in PACKINGS {
        let file = bzimage(packing);
        for length in (0..file.len()).step_by(7).chain(file.len() - 8..file.len()) {
            refuse(file[..length].to_vec());
        }
        let packed = pack(packing, &elf64(true));
        for length in (0..packed.len()).step_by(61).chain([packed.len() - 1]) {
            refuse(packed[..length].to_vec());
        }
    }
}

#[test]
fn a_bomb_stops_at_the_limit() {
    let (limit, zeros) = (1 << 20, vec![0; 4 << 20]);
    for packing in PACKINGS {
        let error = packing.unpack(&pack(packing, &zeros), limit).unwrap_err();
        let message = format!("the kernel's {packing} data unpack to more than {limit} bytes");
        assert_eq!(error.to_string(), message);
        assert_eq!(packing.unpack(&pack(packing, &zeros), 4 << 20).unwrap().len(), 4 << 20);
    }
}

#[test]
fn impossible_segments_are_refused() {
    let patch = |offset: usize, value: u64| {
        let mut image = elf64(true);
        image[64 + offset..][..8].copy_from_slice(&value.to_le_bytes());
        refuse(image)
    };
    assert!(matches!(patch(24, u64::MAX - 5), KernelError::Elf(ElfError::SegmentSize { .. })));
    assert!(matches!(patch(40, 5), KernelError::Elf(ElfError::SegmentSize { .. })));
    assert!(matches!(patch(8, u64::MAX), KernelError::Elf(ElfError::Truncated { .. })));
    assert!(matches!(patch(32, 1 << 62), KernelError::Elf(_)));
    let mut image = elf64(true);
    // The note's header becomes that of another segment at the same place.
    image.copy_within(64..120, 120);
    assert!(matches!(refuse(image), KernelError::Elf(ElfError::Overlap { address: ENTRY })));
    let mut image = elf64(true);
    image[64] = 6;
    assert!(matches!(refuse(image), KernelError::Elf(ElfError::Empty)));
}

#[test]
fn memory_is_filled_and_the_rest_cleared() {
    let memory = allocate(8 << 20).unwrap();
    let end = ENTRY + content().len() as u64;
    memory.write_slice(&vec![0xff; BSS as usize + 1], GuestAddress(end)).unwrap();
    load(&memory, &machine(), &Kernel::from_bytes(elf64(true)).unwrap(), &[], "").unwrap();
    let mut read = vec![0; content().len()];
    memory.read_slice(&mut read, GuestAddress(ENTRY)).unwrap();
    assert!(read == content());
    let mut bss = vec![0; BSS as usize + 1];
    memory.read_slice(&mut bss, GuestAddress(end)).unwrap();
    let (last, zeros) = bss.split_last().unwrap();
    assert!(zeros.iter().all(|byte| *byte == 0) && *last == 0xff);
}
