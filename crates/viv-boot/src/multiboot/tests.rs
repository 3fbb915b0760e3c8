use viv_arch::{Cr0, Rflags, Segment, SegmentRegister};
use viv_engine::memory::allocate;
use vm_memory::{Bytes, GuestAddress};
use zerocopy::FromBytes;

use super::info::{Information, MapEntry, ModuleEntry};
use super::*;
use crate::acpi::tests::parameters;
use crate::kernel::fixtures::{BSS, ENTRY, content, elf32, elf64};
use crate::kernel::{Kernel, KernelError};
use crate::{BootParameters, Initrd, Protocol, SystemIdentity, load};

const RAM: u64 = 16 << 20;
/// A header with no addresses: modules on pages, information about memory.
pub(crate) const PLAIN: u32 = 0b11;
pub(crate) const WITH_ADDRESSES: u32 = 1 << 16;

fn header(flags: u32, addresses: [u32; 5]) -> Vec<u8> {
    let checksum = 0_u32.wrapping_sub(0x1bad_b002).wrapping_sub(flags);
    [0x1bad_b002, flags, checksum].iter().chain(&addresses).flat_map(|word| word.to_le_bytes()).collect()
}

/// A 32-bit ELF image with no note, and a header before its content.
pub(crate) fn multiboot_elf(flags: u32) -> Vec<u8> {
    let mut image = elf32();
    // Two program headers, of which the second was the note's.
    image[44] = 1;
    image[0x80..0xa0].copy_from_slice(&header(flags, [0; 5]));
    image
}

/// No executable of any kind: 16 bytes, a header, content.
pub(crate) fn flat_binary(addresses: [u32; 5]) -> Vec<u8> {
    [vec![0x90; 16], header(PLAIN | WITH_ADDRESSES, addresses), content()].concat()
}

fn try_boot(image: Vec<u8>, modules: &[Module<'_>]) -> Result<(GuestMemory, VcpuState), BootError> {
    let memory = allocate(RAM).unwrap();
    let machine = BootParameters { protocol: None, acpi: parameters(), identity: SystemIdentity::default() };
    let state = load(&memory, &machine, &Kernel::from_bytes(image).unwrap(), modules, "root=hd0")?;
    Ok((memory, state))
}

fn boot(image: Vec<u8>, modules: &[Module<'_>]) -> (GuestMemory, VcpuState) {
    try_boot(image, modules).unwrap()
}

fn read<T: FromBytes>(memory: &GuestMemory, address: u32) -> T {
    let mut bytes = vec![0; size_of::<T>()];
    memory.read_slice(&mut bytes, GuestAddress(address.into())).unwrap();
    T::read_from_bytes(&bytes).unwrap()
}

#[test]
fn the_processor_starts_in_flat_protected_mode() {
    let (memory, state) = boot(multiboot_elf(PLAIN), &[]);
    assert_eq!((state.rip, state.gpr[Gpr::Rax as usize]), (ENTRY, 0x2bad_b002));
    assert_eq!((state.cr0, state.rflags), (Cr0::PE | Cr0::ET, Rflags::RESERVED_1));
    let code = state.segments[SegmentRegister::Cs as usize];
    assert_eq!((code.base, code.limit, code.attributes & Segment::DEFAULT_BIG != 0), (0, u32::MAX, true));
    assert!(read::<[u8; 0x3000]>(&memory, ENTRY as u32)[..] == content());
}

#[test]
fn the_information_leads_to_everything() {
    let modules = [
        Module { content: Initrd::Bytes(&[1; 5000]), cmdline: "ext2fs --readonly" },
        Module { content: Initrd::Bytes(&[2; 10]), cmdline: "" },
    ];
    let (memory, state) = boot(multiboot_elf(PLAIN), &modules);
    let info: Information = read(&memory, state.gpr[Gpr::Rbx as usize] as u32);
    assert_eq!(info.flags.get(), 0b10_0100_1101);
    assert_eq!((info.mem_lower.get(), info.mem_upper.get()), (640, 15 << 10));
    assert_eq!(&read::<[u8; 9]>(&memory, info.cmdline.get()), b"root=hd0\0");
    assert_eq!(&read::<[u8; 9]>(&memory, info.boot_loader_name.get()), b"Vivarium\0");

    assert_eq!(info.mods_count.get(), 2);
    let [first, second] = read::<[ModuleEntry; 2]>(&memory, info.mods_addr.get());
    assert_eq!((first.mod_start.get() % 0x1000, first.mod_end.get() - first.mod_start.get()), (0, 5000));
    assert_eq!(read::<[u8; 5000]>(&memory, first.mod_start.get()), [1; 5000]);
    assert_eq!(&read::<[u8; 18]>(&memory, first.string.get()), b"ext2fs --readonly\0");
    assert_eq!((second.mod_start.get() % 0x1000, second.mod_end.get() - second.mod_start.get()), (0, 10));
    assert_eq!(
        (read::<[u8; 10]>(&memory, second.mod_start.get()), read(&memory, second.string.get())),
        ([2; 10], [0])
    );
    assert!(second.mod_end.get() <= first.mod_start.get());

    assert_eq!(info.mmap_length.get() as usize, 4 * size_of::<MapEntry>());
    let [low, _, high, _] = read::<[MapEntry; 4]>(&memory, info.mmap_addr.get());
    assert_eq!((low.size.get(), low.addr.get(), low.len.get(), low.kind.get()), (20, 0, 0xa_0000, 1));
    assert_eq!((high.addr.get(), high.len.get(), high.kind.get()), (0x10_0000, RAM - 0x10_0000, 1));
}

#[test]
fn a_header_with_addresses_says_what_is_loaded() {
    let load = 0x10_0000;
    let size = flat_binary([0; 5]).len() as u32;
    let (memory, state) = boot(flat_binary([load + 16, load, 0, load + size + BSS as u32, load + 48]), &[]);
    assert_eq!(state.rip, u64::from(load) + 48);
    assert_eq!(read::<[u8; 16]>(&memory, load), [0x90; 16]);
    assert!(read::<[u8; 0x3000]>(&memory, load + 48)[..] == content());
    // A part of the file, from the header on.
    let (memory, _) = boot(flat_binary([load, load, load + 0x100, 0, load + 32]), &[]);
    assert_eq!(read::<u32>(&memory, load), 0x1bad_b002);
    assert_eq!(read::<[u8; 16]>(&memory, load + 0x100), [0; 16]);
    // An executable's own headers count for nothing then.
    let mut image = elf32();
    image[44] = 1;
    let place = [load + 0x80, load, 0, 0, load + 0x100];
    image[0x80..0xa0].copy_from_slice(&header(PLAIN | WITH_ADDRESSES, place));
    assert_eq!(boot(image, &[]).1.rip, u64::from(load) + 0x100);
}

#[test]
fn a_header_that_cannot_be_is_refused() {
    let refuse = |image: Vec<u8>| Kernel::from_bytes(image).unwrap_err();
    assert_eq!(
        refuse(multiboot_elf(0b1000)).to_string(),
        "the kernel's Multiboot header has requirements that are not known: flags 0x8"
    );
    for addresses in [
        [0x10_0000, 0x20_0000, 0, 0, 0],
        [0x10_0040, 0x10_0000, 0, 0, 0],
        [0x10_0010, 0x10_0000, 0xff_ffff, 0, 0],
        [0x10_0010, 0x10_0000, 0x10_0000, 0, 0],
        [0x10_0010, 0x10_0000, 0, 0x10_0010, 0],
    ] {
        let error = refuse(flat_binary(addresses)).to_string();
        assert!(error.contains("impossible addresses: header at 0x"), "{error}");
    }
    let mut image = flat_binary([0x10_0010, 0x10_0000, 0, 0, 0x10_0000]);
    image[16 + 8] ^= 1;
    assert!(matches!(refuse(image), KernelError::NotAKernel(_)), "a wrong checksum");
}

#[test]
fn the_protocol_is_taken_when_there_is_no_other() {
    let preferred = |image: Vec<u8>| Protocol::preferred(&Kernel::from_bytes(image).unwrap()).unwrap();
    assert_eq!(preferred(multiboot_elf(PLAIN)), Protocol::Multiboot);
    let mut with_note = elf32();
    with_note[0x80..0xa0].copy_from_slice(&header(PLAIN, [0; 5]));
    assert_eq!(preferred(with_note), Protocol::Pvh);
    let mut high = elf64(false);
    assert_eq!(preferred(high.clone()), Protocol::Linux64);
    high[0x80..0xa0].copy_from_slice(&header(PLAIN, [0; 5]));
    assert_eq!(preferred(high), Protocol::Multiboot);
}

#[test]
fn an_entry_point_is_given_by_its_virtual_address() {
    let mut image = multiboot_elf(PLAIN);
    // Linked 3 GiB above where it is loaded.
    image[24..28].copy_from_slice(&(0xc000_0010 + ENTRY as u32).to_le_bytes());
    image[52 + 8..][..4].copy_from_slice(&(0xc000_0000 + ENTRY as u32).to_le_bytes());
    assert_eq!(boot(image, &[]).1.rip, ENTRY + 0x10);
}

#[test]
fn modules_that_do_not_fit_are_refused() {
    let large = vec![0; RAM as usize];
    let refuse = |cmdline: &str, content: &[u8]| {
        let modules = [Module { content: Initrd::Bytes(content), cmdline }];
        try_boot(multiboot_elf(PLAIN), &modules).map(|_| panic!("booted")).unwrap_err().to_string()
    };
    assert!(refuse("", &large).contains("initrd of 16777216 bytes does not fit"));
    assert!(refuse("a\0b", b"x").contains("zero byte"));
    assert!(refuse(&"x".repeat(0x2_0000), b"x").contains("modules"));
}
