use viv_arch::Rflags;
use viv_engine::memory::allocate;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::acpi::tests::parameters;
use crate::kernel::Packing;
use crate::kernel::fixtures::{ENTRY, bzimage, elf32, elf64};
use crate::{BootError, BootParameters, Initrd, Protocol, SystemIdentity, load};

const RAM: u64 = 16 << 20;

struct Guest {
    memory: GuestMemory,
    state: VcpuState,
}

fn try_boot(
    content: Vec<u8>,
    protocol: Option<Protocol>,
    initrd: Option<Initrd<'_>>,
    cmdline: &str,
) -> Result<Guest, BootError> {
    let memory = allocate(RAM).unwrap();
    let machine = BootParameters { protocol, acpi: parameters(), identity: SystemIdentity::default() };
    let kernel = Kernel::from_bytes(content).unwrap();
    let state = load(&memory, &machine, &kernel, initrd.map(Into::into).as_slice(), cmdline)?;
    Ok(Guest { memory, state })
}

fn boot(content: Vec<u8>, initrd: Option<Initrd<'_>>, cmdline: &str) -> Guest {
    try_boot(content, None, initrd, cmdline).unwrap()
}

impl Guest {
    fn u64_at(&self, address: u64) -> u64 {
        self.memory.read_obj(GuestAddress(address)).unwrap()
    }

    fn u32_at(&self, address: u64) -> u32 {
        self.memory.read_obj(GuestAddress(address)).unwrap()
    }

    fn bytes(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    fn param(&self, offset: u64) -> u64 {
        self.state.gpr[Gpr::Rsi as usize] + offset
    }

    /// Walks the page tables (SDM vol. 3, 4.5.4), for large pages.
    fn translate(&self, address: u64) -> u64 {
        let mut table = self.state.cr3;
        for shift in [39, 30] {
            let entry = self.u64_at(table + (address >> shift & 511) * 8);
            assert_eq!(entry & 0xfff, 3, "{address:#x}");
            table = entry & !0xfff;
        }
        let entry = self.u64_at(table + (address >> 21 & 511) * 8);
        assert_eq!(entry & 0x1f_ffff, 0x83, "{address:#x}");
        (entry & !0x1f_ffff) | (address & 0x1f_ffff)
    }
}

#[test]
fn the_processor_starts_in_long_mode_on_identity_pages() {
    let guest = boot(bzimage(Packing::Lz4), None, "");
    let state = &guest.state;
    assert_eq!(state.rip, ENTRY);
    assert_eq!(state.rflags, Rflags::RESERVED_1, "interrupts are off");
    assert_eq!(state.msrs, [(viv_arch::msr::IA32_MTRR_DEF_TYPE, 0x806)]);
    assert!(state.cr0.contains(Cr0::PE | Cr0::PG) && !state.cr0.intersects(Cr0::CD | Cr0::NW));
    assert!(state.cr4.contains(Cr4::PAE) && state.efer == Efer::LME | Efer::LMA);
    for address in [0, ENTRY, 0x7fff_ffff, 0xfee0_0000, 0xffff_ffff] {
        assert_eq!(guest.translate(address), address);
    }
    for (register, selector) in [(SegmentRegister::Cs, 0x10), (SegmentRegister::Ds, 0x18)] {
        let segment = state.segments[register as usize];
        assert_eq!(segment.selector, selector);
        let descriptor = guest.u64_at(state.gdtr.base + u64::from(selector));
        assert_eq!(Segment::from_descriptor(selector, descriptor), segment);
        assert!(u64::from(state.gdtr.limit) >= u64::from(selector) + 7);
    }
    assert!(state.segments[SegmentRegister::Cs as usize].attributes & Segment::LONG != 0);
}

#[test]
fn the_zero_page_holds_header_cmdline_and_tables() {
    let guest = boot(bzimage(Packing::Gzip), None, "console=ttyS0 root=/dev/vda");
    assert_eq!(guest.u32_at(guest.param(0x202)).to_le_bytes(), *b"HdrS");
    assert_eq!(guest.bytes(guest.param(0x1fe), 2), [0x55, 0xaa]);
    assert_eq!(guest.bytes(guest.param(0x210), 2), [0xff, 0x01], "loader type and flags");
    assert_eq!(guest.bytes(guest.param(0x26c), 0x24), [0; 0x24], "nothing from beyond the header");
    assert_eq!(guest.u32_at(guest.param(0x218)), 0, "no initrd");
    assert_eq!(guest.u32_at(guest.param(0x21c)), 0);
    let cmdline = u64::from(guest.u32_at(guest.param(0x228)));
    assert_eq!(guest.bytes(cmdline, 28), b"console=ttyS0 root=/dev/vda\0");
    let rsdp = guest.u64_at(guest.param(0x70));
    assert_eq!(guest.bytes(rsdp, 8), b"RSD PTR ");
    assert_eq!(guest.bytes(0xf_0000, 5), b"_SM3_");

    assert_eq!(guest.bytes(guest.param(0x1e8), 1), [4]);
    let entry = |index: u64| {
        let at = guest.param(0x2d0 + 20 * index);
        (guest.u64_at(at), guest.u64_at(at + 8), guest.u32_at(at + 16))
    };
    assert_eq!(entry(0), (0, 0xa_0000, 1));
    assert_eq!(entry(1), (0xa_0000, 0x6_0000, 2));
    assert_eq!(entry(2), (0x10_0000, RAM - 0x10_0000, 1));
    assert_eq!(entry(3), (0xe000_0000, 0x1000_0000, 2), "the ECAM");
}

#[test]
fn an_elf_image_gets_a_header_of_its_own() {
    let guest = boot(elf64(false), None, "");
    assert_eq!(guest.state.rip, ENTRY);
    assert_eq!(guest.u32_at(guest.param(0x202)).to_le_bytes(), *b"HdrS");
    assert_eq!(guest.bytes(guest.param(0x210), 2), [0xff, 0x01]);
}

#[test]
fn the_initrd_lies_at_the_top() {
    let initrd = vec![0x5a; 5000];
    let guest = boot(bzimage(Packing::Xz), Some(Initrd::Bytes(&initrd)), "");
    let (start, size) = (guest.u32_at(guest.param(0x218)), guest.u32_at(guest.param(0x21c)));
    assert_eq!((u64::from(start), size), (RAM - 0x2000, 5000));
    assert!(guest.bytes(start.into(), 5000) == initrd);
}

#[test]
fn the_initrd_respects_the_kernel_s_limit() {
    let mut file = bzimage(Packing::Xz);
    file[0x22c..0x230].copy_from_slice(&0x7f_ffff_u32.to_le_bytes());
    let guest = boot(file, Some(Initrd::Bytes(&[1; 0x1000])), "");
    assert_eq!(guest.u32_at(guest.param(0x218)), 0x7f_f000);
}

fn refuse(content: Vec<u8>, protocol: Option<Protocol>, initrd: Option<Initrd<'_>>, cmdline: &str) -> String {
    try_boot(content, protocol, initrd, cmdline).map(|_| panic!("booted")).unwrap_err().to_string()
}

#[test]
fn what_does_not_fit_is_refused() {
    let initrd = vec![1; RAM as usize];
    assert_eq!(
        refuse(elf64(true), Some(Protocol::Linux64), Some(Initrd::Bytes(&initrd)), ""),
        "the initrd of 16777216 bytes does not fit into the guest's memory: beside the kernel there is room \
         for 14659584"
    );
    assert_eq!(
        refuse(elf64(false), None, None, &"x".repeat(2048)),
        "the kernel's command line has 2048 bytes, the kernel takes at most 2047"
    );
    assert_eq!(refuse(elf64(false), None, None, "a\0b"), "the kernel's command line contains a zero byte");
    let at = |address: u64| {
        let mut image = elf64(false);
        image[64 + 24..][..8].copy_from_slice(&address.to_le_bytes());
        image[24..32].copy_from_slice(&address.to_le_bytes());
        refuse(image, None, None, "")
    };
    assert_eq!(
        at(RAM - 0x1000),
        "the kernel does not fit into the guest's memory: it needs 0xfff000 to 0x1003800, RAM is 0x0 to \
         0xa0000 and 0xc0000 to 0x1000000"
    );
    assert_eq!(at(0x7000), "the kernel wants the memory at 0x7000: below 1 MiB nothing can be loaded");
    let mut image = elf64(false);
    image[24..32].fill(0xff);
    assert_eq!(
        refuse(image, None, None, ""),
        "the kernel's entry point 0xffffffffffffffff is in no part of it that is loaded below 4 GiB"
    );
}

#[test]
fn the_protocol_must_suit_the_kernel() {
    assert_eq!(
        refuse(elf32(), Some(Protocol::Linux64), None, ""),
        "the kernel cannot be started by the 64-bit Linux protocol: it is a 32-bit image"
    );
    assert_eq!(
        refuse(elf64(false), Some(Protocol::Pvh), None, ""),
        "the kernel cannot be started by the PVH protocol: it has no note with an entry point for it"
    );
    // A program: linked low, no note.
    let mut program = elf64(false);
    program[64 + 16..][..8].copy_from_slice(&ENTRY.to_le_bytes());
    assert!(refuse(program, None, None, "").starts_with("not a kernel: "));
}
