//! Loads a distribution's kernel: the file that `VIV_TEST_KERNEL` names.

use std::env;
use std::fs::File;

use viv_arch::Gpr;
use viv_boot::acpi::{FixedHardware, IoApic, PciHost};
use viv_boot::{AcpiParameters, BootParameters, Initrd, Kernel, Protocol, load};
use viv_engine::GuestMemory;
use viv_engine::memory::allocate;
use vm_memory::{Bytes, GuestAddress};

const RAM: u64 = 256 << 20;

fn acpi() -> AcpiParameters {
    AcpiParameters {
        cpus: 1,
        local_apic: 0xfee0_0000,
        io_apic: IoApic { id: 0, address: 0xfec0_0000, gsi_base: 0 },
        timer_gsi: 2,
        fixed: FixedHardware {
            pm1_event: 0x600,
            pm1_control: 0x604,
            pm_timer: 0x608,
            pm_timer_32_bit: true,
            gpe0: None,
            sci: 9,
            reset_port: 0xcf9,
            reset_value: 6,
            sleep_type_s5: 5,
        },
        pci: PciHost {
            ecam_base: 0xe000_0000,
            last_bus: 255,
            config_ports: 0xcf8..0xd00,
            io: 0xc000..0xffff,
            mmio32: 0xc000_0000..0xe000_0000,
            mmio64: None,
            interrupts: Vec::new(),
        },
        serial: Vec::new(),
        rtc: None,
        board_ports: Vec::new(),
        i8042: false,
        vga: false,
    }
}

fn bytes(memory: &GuestMemory, address: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
    bytes
}

#[test]
#[ignore = "needs a Linux kernel with PVH entry, named by VIV_TEST_KERNEL"]
fn a_distribution_s_kernel_is_loaded_by_either_protocol() {
    let path = env::var_os("VIV_TEST_KERNEL").expect("VIV_TEST_KERNEL names a kernel");
    let kernel = Kernel::from_file(&File::open(path).unwrap()).unwrap();
    // A 64-bit Linux on x86 is linked to physical 16 MiB, where startup_64 comes first (CONFIG_PHYSICAL_START).
    assert_eq!(kernel.entry(), 0x100_0000);
    let pvh_entry = kernel.pvh_entry().expect("a PVH note");
    assert!(kernel.segments().iter().any(|segment| segment.contains(pvh_entry)));
    assert_eq!(Protocol::preferred(&kernel).unwrap(), Protocol::Linux64);

    for (protocol, entry) in [(Protocol::Linux64, kernel.entry()), (Protocol::Pvh, pvh_entry)] {
        let memory = allocate(RAM).unwrap();
        let machine = BootParameters { protocol: Some(protocol), acpi: acpi() };
        let initrd = Initrd::Bytes(b"not really one");
        let state = load(&memory, &machine, &kernel, Some(initrd), "console=ttyS0").unwrap();
        assert_eq!(state.rip, entry);
        assert_ne!(bytes(&memory, entry, 16), [0; 16], "code at the entry point");
        assert_eq!(bytes(&memory, RAM - 0x1000, 14), b"not really one");
        if protocol == Protocol::Linux64 {
            assert_eq!(bytes(&memory, state.gpr[Gpr::Rsi as usize] + 0x202, 4), b"HdrS");
        }
    }

    let small = allocate(32 << 20).unwrap();
    let machine = BootParameters { protocol: None, acpi: acpi() };
    let error = load(&small, &machine, &kernel, None, "").unwrap_err();
    assert!(error.to_string().starts_with("the kernel does not fit into the guest's memory"), "{error}");
}
