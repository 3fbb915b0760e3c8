//! Accesses to the chipset that belong together, for registers that random accesses seldom get to.

use super::Op;
use super::bench::RAM;
use super::chipset::FLASH;
use super::program::value;
use crate::layout;
use crate::testing::Random;

/// For devices whose registers all lie open.
pub(super) fn none(_random: &mut Random, _ops: &mut Vec<Op>) {}

/// ICW1 to ICW4 for both, no interrupt masked.
pub(super) fn initialize_pics() -> Vec<Op> {
    [(layout::PIC_MASTER, 0x30, 4), (layout::PIC_SLAVE, 0x38, 2)]
        .iter()
        .flat_map(|&(port, vector, cascade)| {
            [Op::out(port, 0x11, 1)]
                .into_iter()
                .chain([vector, cascade, 1, 0].map(|v| Op::out(port + 1, v, 1)))
        })
        .collect()
}

/// An edge or two, and OCW2 or OCW3.
pub(super) fn pic(random: &mut Random, ops: &mut Vec<Op>) {
    let gsi = random.below(16);
    ops.extend([Op::Outside(3 | gsi << 8 | 1 << 16), Op::Outside(1)]);
    let port = if random.below(2) == 0 { layout::PIC_MASTER } else { layout::PIC_SLAVE };
    ops.push(Op::out(port, random.below(8) << 5 | random.below(8), 1));
    ops.push(Op::Outside(3 | gsi << 8));
}

/// One half of a redirection entry.
pub(super) fn ioapic(random: &mut Random, ops: &mut Vec<Op>) {
    let register = random.below(2 * u64::from(layout::IOAPIC_PINS) + 18);
    let mut entry = value(random);
    if random.below(2) == 0 {
        // Not masked, and with a vector.
        entry = entry & 0xa0ff | 0x40;
    }
    ops.push(Op::store(layout::IOAPIC_BASE, register, 4));
    ops.push(Op::store(layout::IOAPIC_BASE + 0x10, entry, 4));
    ops.push(Op::Outside(random.next() & !7 | 3));
}

/// A control word and a count.
pub(super) fn pit(random: &mut Random, ops: &mut Vec<Op>) {
    let channel = random.below(3);
    ops.push(Op::out(layout::PIT + 3, channel << 6 | random.below(64), 1));
    let counter = layout::PIT + channel as u16;
    let count = random.next() >> random.below(16);
    ops.extend([Op::out(counter, count, 1), Op::out(counter, count >> 8, 1)]);
    ops.push(Op::Pass(random.below(1 << 26)));
}

/// A register by its index.
pub(super) fn rtc(random: &mut Random, ops: &mut Vec<Op>) {
    let index = if random.below(4) == 0 { random.below(0x80) } else { random.below(0xe) };
    ops.push(Op::out(layout::RTC_INDEX, index, 1));
    let value = if random.below(2) == 0 { random.below(0x60) } else { random.below(0x100) };
    ops.push(Op::out(layout::RTC_DATA, value, 1));
    if random.below(4) == 0 {
        ops.push(Op::Pass(random.below(1 << 34)));
    }
}

/// A comparator that will match, soon or late.
pub(super) fn hpet(random: &mut Random, ops: &mut Vec<Op>) {
    let timer = layout::HPET_BASE + 0x100 + 0x20 * random.below(3);
    ops.push(Op::store(layout::HPET_BASE + 0x10, random.below(4) | 1, 8));
    ops.push(Op::store(timer, random.below(1 << 14), 4));
    ops.push(Op::store(timer + 8, random.next() >> random.below(64), 4 << random.below(2)));
    ops.push(Op::Pass(random.below(1 << 20)));
}

/// What is enabled, and sleep types.
pub(super) fn acpi_pm(random: &mut Random, ops: &mut Vec<Op>) {
    ops.push(Op::out(layout::PM1_EVENT + 2, random.next() & 0x0121, 2));
    ops.push(Op::out(layout::PM1_CONTROL, random.below(8) << 10 | random.below(2) << 13 | 1, 2));
    ops.push(Op::out(layout::GPE0 + 4, random.next(), 4));
    ops.push(Op::Outside(random.next()));
}

/// Both ports open, with interrupts.
pub(super) fn open_ps2_ports() -> Vec<Op> {
    vec![Op::out(layout::I8042_COMMAND, 0x60, 1), Op::out(layout::I8042_DATA, 0x47, 1)]
}

/// A command with its byte, for the controller or a device.
pub(super) fn i8042(random: &mut Random, ops: &mut Vec<Op>) {
    let command =
        [0x60, 0xd1, 0xd2, 0xd3, 0xd4, 0xd4, 0xa7, 0xa8, 0xad, 0xae, 0xff][random.below(11) as usize];
    ops.push(Op::out(layout::I8042_COMMAND, command, 1));
    let byte = if random.below(2) == 0 { 0xe6 + random.below(0x1a) } else { random.below(0x100) };
    ops.push(Op::out(layout::I8042_DATA, byte, 1));
    ops.push(Op::Read(super::Place::Port(layout::I8042_DATA), 1));
}

/// A DMA operation.
pub(super) fn fw_cfg(random: &mut Random, ops: &mut Vec<Op>) {
    let key = [0, 0x05, 0x19, 0x20, 0x21, 0x22, 0x23, 0x8000][random.below(8) as usize];
    let control = key << 16 | random.below(32) as u32;
    let length = (random.next() >> (32 + random.below(32))) as u32;
    let address = if random.below(8) == 0 { random.next() } else { random.below(RAM) };
    let descriptor = if random.below(16) == 0 { value(random) } else { random.below(RAM) };
    let bytes = [&control.to_be_bytes()[..], &length.to_be_bytes(), &address.to_be_bytes()].concat();
    ops.push(Op::Ram(descriptor, bytes));
    ops.push(Op::out(layout::FW_CFG_DMA, (descriptor >> 32).swap_bytes() >> 32, 4));
    ops.push(Op::out(layout::FW_CFG_DMA + 4, u64::from((descriptor as u32).swap_bytes()), 4));
}

/// A command, what it wants, and its end.
pub(super) fn pflash(random: &mut Random, ops: &mut Vec<Op>) {
    let at = FLASH + random.below(0x1_0000);
    let command = [0x10, 0x20, 0x40, 0x50, 0x60, 0x70, 0x90, 0x98, 0xe8, 0xff][random.below(10) as usize];
    ops.push(Op::store(at, command, 1));
    if command == 0xe8 {
        let writes = random.below(4);
        ops.push(Op::store(at, writes, 1));
        for index in 0..=writes {
            ops.push(Op::store(at + index, value(random), 1 << random.below(4)));
        }
    }
    let end = if random.below(4) == 0 { random.below(0x100) } else { 0xd0 };
    ops.push(Op::store(at, end, 1));
}

/// CPUs wanted, and one looked at, told or ejected.
pub(super) fn cpu_hotplug(random: &mut Random, ops: &mut Vec<Op>) {
    let base = layout::CPU_HOTPLUG;
    ops.push(Op::Outside(random.next()));
    ops.push(Op::out(base, random.below(7), 4));
    ops.push(Op::out(base + 5, random.below(4), 1));
    ops.extend([0, 8].map(|at| Op::Read(super::Place::Port(base + at), 4)));
    ops.push(Op::out(base + 4, 1 << random.below(5), 1));
}

/// The watchdog's timer set, let run or halted, and time that passes.
pub(super) fn tco(random: &mut Random, ops: &mut Vec<Op>) {
    let base = layout::TCO.start;
    ops.push(Op::out(base + 0x12, random.below(8), 2));
    ops.push(Op::out(base, 1, 2));
    ops.push(Op::out(base + 8, random.below(3) << 11, 2));
    ops.push(Op::Pass(random.below(1 << 33)));
}
