//! Random programs of register accesses, for every device: a guest may do anything in any order.
//!
//! A [`Target`] is a [`bench`] with one device (or, for PCI, every function) and the places where it answers. A
//! [`program`] is made from a seed: accesses of every size with any value, guest RAM with likely and unlikely
//! structures, time that passes, what happens outside, resets, and states that are saved, restored and damaged. It
//! [`run`]s on a device and on a restored copy of it; what they answer and what they say must be the same, and so must
//! be what is left in the end. Nothing may panic, and what a device does for one access has a limit, counted in its
//! calls. A program that fails is made shorter and shown, with its seed.

mod backends;
mod bench;
mod chipset;
mod drivers;
mod functions;
mod heard;
mod idioms;
mod program;
mod run;

pub(crate) use bench::Bench;
pub(crate) use program::{Area, Op, Place};

use crate::testing::Random;

/// How many steps a program has.
const STEPS: usize = 600;

/// What programs are made for.
pub(crate) struct Target {
    /// How many programs a test runs.
    programs: u64,
    /// Makes the device, as it is after power-on.
    make: fn() -> Bench,
    /// Where it answers.
    areas: &'static [Area],
    /// What programs begin with.
    prologue: fn() -> Vec<Op>,
    /// Adds steps that belong together: what a driver does, more or less.
    idiom: fn(&mut Random, &mut Vec<Op>),
}

/// Each target by its name, which is a test's too.
macro_rules! targets {
    ($($name:ident: $target:path),+ $(,)?) => {
        mod target {
            use super::{check, chipset, functions};

            $(
                #[test]
                fn $name() {
                    check(stringify!($name), &$target);
                }
            )+
        }
    };
}

targets! {
    acpi_pm: chipset::ACPI_PM,
    ahci: functions::AHCI,
    cpu_hotplug: chipset::CPU_HOTPLUG,
    debug_port: chipset::DEBUG_PORT,
    exit_port: chipset::EXIT_PORT,
    fw_cfg: chipset::FW_CFG,
    generation_id: chipset::GENERATION_ID,
    hpet: chipset::HPET,
    i8042: chipset::I8042_ALONE,
    i8042_devices: chipset::I8042_DEVICES,
    ioapic: chipset::IOAPIC,
    pci: functions::PCI,
    pci_firmware: functions::PCI_FIRMWARE,
    pflash: chipset::PFLASH,
    pic: chipset::PIC,
    pit: chipset::PIT,
    pvpanic: chipset::PVPANIC,
    reset: chipset::RESET,
    rtc: chipset::RTC,
    tco: chipset::TCO,
    uart: chipset::UART,
    vga: functions::VGA,
    virtio_balloon: functions::VIRTIO_BALLOON,
    virtio_blk: functions::VIRTIO_BLK,
    virtio_console: functions::VIRTIO_CONSOLE,
    virtio_mem: functions::VIRTIO_MEM,
    virtio_net: functions::VIRTIO_NET,
    virtio_pmem: functions::VIRTIO_PMEM,
    virtio_rng: functions::VIRTIO_RNG,
    virtio_vhost_user: functions::VIRTIO_VHOST_USER,
    virtio_vsock: functions::VIRTIO_VSOCK,
}

/// Runs programs.
fn check(name: &str, target: &Target) {
    viv_fuzz::run(name, target.programs, |seed| one(name, target, seed));
}

fn one(name: &str, target: &Target, seed: u64) {
    let ops = program::program(target, seed, STEPS);
    if run::run(target, &ops).is_ok() {
        return;
    }
    let ops = run::shrink(target, ops);
    let why = run::run(target, &ops).err().unwrap_or_else(|| "not every time".to_owned());
    let steps: String = ops.iter().enumerate().map(|(index, op)| format!("{index:4}: {op:?}\n")).collect();
    panic!("{name}, seed {seed}: {why}\n{steps}");
}

/// For targets that have nothing to begin with.
fn nothing() -> Vec<Op> {
    Vec::new()
}
