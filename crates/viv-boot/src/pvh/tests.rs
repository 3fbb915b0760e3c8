use viv_arch::{Cr0, Rflags, Segment, SegmentRegister};
use viv_engine::memory::allocate;
use vm_memory::{Bytes, GuestAddress};
use zerocopy::FromBytes;

use super::start_info::{MAGIC, MemmapEntry, ModlistEntry, StartInfo};
use super::*;
use crate::acpi::tests::parameters;
use crate::kernel::fixtures::{PVH_ENTRY, bzimage, elf32, elf64};
use crate::kernel::{Kernel, Packing};
use crate::{BootParameters, Initrd, Protocol, SystemIdentity, load};

const RAM: u64 = 16 << 20;

fn boot(content: Vec<u8>, protocol: Option<Protocol>, initrd: &[u8]) -> (GuestMemory, VcpuState) {
    let memory = allocate(RAM).unwrap();
    let machine = BootParameters { protocol, acpi: parameters(), identity: SystemIdentity::default() };
    let kernel = Kernel::from_bytes(content).unwrap();
    let state = load(&memory, &machine, &kernel, &[Initrd::Bytes(initrd).into()], "quiet").unwrap();
    (memory, state)
}

fn read<T: FromBytes>(memory: &GuestMemory, address: u64) -> T {
    let mut bytes = vec![0; size_of::<T>()];
    memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
    T::read_from_bytes(&bytes).unwrap()
}

#[test]
fn the_processor_starts_in_flat_protected_mode() {
    for (content, protocol) in
        [(elf32(), None), (elf64(true), None), (bzimage(Packing::Zstd), Some(Protocol::Pvh))]
    {
        let (_, state) = boot(content, protocol, &[]);
        assert_eq!(state.rip, PVH_ENTRY);
        assert_eq!(state.cr0, Cr0::PE | Cr0::ET);
        assert!(state.cr4.is_empty() && state.efer.is_empty());
        assert_eq!(state.rflags, Rflags::RESERVED_1);
        let code = state.segments[SegmentRegister::Cs as usize];
        assert_eq!((code.base, code.limit), (0, u32::MAX));
        assert!(code.is_code() && code.attributes & Segment::DEFAULT_BIG != 0);
        let data = state.segments[SegmentRegister::Es as usize];
        assert_eq!((data.base, data.limit, data.is_code()), (0, u32::MAX, false));
        assert_eq!((state.tr.base, state.tr.limit, state.tr.kind()), (0, 0x67, 0xb));
    }
}

#[test]
fn the_start_info_leads_to_everything() {
    let (memory, state) = boot(elf64(true), None, &[0x77; 0x1234]);
    let info: StartInfo = read(&memory, state.gpr[Gpr::Rbx as usize]);
    assert_eq!((info.magic.get(), info.version.get()), (MAGIC, 1));
    assert_eq!(&read::<[u8; 6]>(&memory, info.cmdline_paddr.get()), b"quiet\0");
    assert_eq!(&read::<[u8; 8]>(&memory, info.rsdp_paddr.get()), b"RSD PTR ");
    assert_eq!(info.nr_modules.get(), 1);
    let module: ModlistEntry = read(&memory, info.modlist_paddr.get());
    assert_eq!((module.paddr.get(), module.size.get()), (RAM - 0x2000, 0x1234));
    assert_eq!(read::<[u8; 0x1234]>(&memory, module.paddr.get()), [0x77; 0x1234]);

    assert_eq!(info.memmap_entries.get(), 4);
    let entry: MemmapEntry = read(&memory, info.memmap_paddr.get() + 2 * size_of::<MemmapEntry>() as u64);
    assert_eq!((entry.addr.get(), entry.size.get(), entry.kind.get()), (0x10_0000, RAM - 0x10_0000, 1));
}

#[test]
fn without_an_initrd_there_is_no_module() {
    let (memory, state) = boot(elf64(true), None, &[]);
    let info: StartInfo = read(&memory, state.gpr[Gpr::Rbx as usize]);
    assert_eq!((info.nr_modules.get(), info.modlist_paddr.get()), (0, 0));
}
