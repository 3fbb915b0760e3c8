//! What drivers of PCI functions do, more or less.

use super::functions::{BAR, CONFIG};
use super::program::value;
use super::{Op, Place};
use crate::layout;
use crate::testing::Random;

/// Memory and bus mastering.
const COMMAND: u64 = 6;
/// Where requests' data lie.
const DATA: u64 = 0x6_0000;
const DATA_SIZE: u64 = 0x4_8000;

/// Puts a function that is alone back in its place and lets it answer.
pub(super) fn enable_function() -> Vec<Op> {
    let bars = [(0x10, BAR), (0x24, BAR)].map(|(register, address)| Op::store(CONFIG + register, address, 4));
    bars.into_iter().chain([Op::store(CONFIG + 4, COMMAND, 2)]).collect()
}

/// Lets all functions of a bus answer, by either way to configuration space.
pub(super) fn enable_functions() -> Vec<Op> {
    let ecam = layout::PCI_ECAM_BASE;
    let bridge = [(0x64, 0), (0x60, ecam | 1)].map(|(register, value)| (0x8000_0000 | register, value));
    let mut ops: Vec<Op> = bridge
        .into_iter()
        .flat_map(|(address, value)| [Op::out(0xcf8, address, 4), Op::out(0xcfc, value, 4)])
        .collect();
    ops.extend((1..8).map(|slot| Op::store(ecam + (slot << 15) + 4, COMMAND | 1, 2)));
    ops
}

/// One register of one function.
pub(super) fn pci(random: &mut Random, ops: &mut Vec<Op>) {
    let slot =
        [0, 1, 2, 3, 4, 5, 6, 7, u64::from(layout::LPC_SLOT), random.below(32)][random.below(10) as usize];
    let register = match random.below(3) {
        0 => 4,
        1 => 0x10 + random.below(6) * 4,
        _ => random.below(0x100) & !3,
    };
    let value = if random.below(3) == 0 { BAR + (random.below(0x100) << 20) } else { value(random) };
    if random.below(2) == 0 {
        ops.push(Op::out(0xcf8, 1 << 31 | slot << 11 | register, 4));
        let port = 0xcfc + random.below(4) as u16;
        ops.push(Op::out(port, value, 1 << random.below(3)));
        ops.push(Op::Read(Place::Port(0xcfc), 4));
    } else {
        let address = layout::PCI_ECAM_BASE + (slot << 15) + register;
        ops.push(Op::store(address, value, 4));
        ops.push(Op::Read(Place::Memory(address), 4));
    }
}

/// A register by its index, in one of the VGA's groups; or one of DISPI's.
pub(super) fn vga(random: &mut Random, ops: &mut Vec<Op>) {
    match random.below(4) {
        0 => {
            for (index, value) in [(1, random.below(1700)), (2, random.below(1300)), (3, random.below(5) * 8)]
            {
                ops.extend([Op::out(0x1ce, index, 2), Op::out(0x1cf, value, 2)]);
            }
            ops.extend([Op::out(0x1ce, 4, 2), Op::out(0x1cf, random.below(0x100) | 1, 2)]);
        }
        1 => {
            ops.push(Op::Read(Place::Port(0x3da), 1));
            ops.push(Op::out(0x3c0, random.below(0x40), 1));
            ops.push(Op::out(0x3c0, random.next(), 1));
        }
        group => {
            let port = [0x3c4, 0x3ce, 0x3d4][(group + random.below(2)) as usize % 3];
            ops.push(Op::out(port, random.below(0x1a) | random.next() << 8, 2));
        }
    }
}

/// Where a port's command list, received FISes and command tables lie.
fn lists(port: u64) -> u64 {
    0x1_0000 + port * 0x4000
}

/// All ports of the controller started.
pub(super) fn start_ahci() -> Vec<Op> {
    let mut ops = enable_function();
    ops.push(Op::store(BAR + 4, 1 << 31 | 2, 4));
    for port in 0..6 {
        let registers = BAR + 0x100 + port * 0x80;
        for (register, value) in [
            (0x18, 0),
            (0x00, lists(port)),
            (0x04, 0),
            (0x08, lists(port) + 0x400),
            (0x0c, 0),
            (0x10, u64::MAX),
            (0x14, u64::MAX),
            (0x30, u64::MAX),
            (0x18, 0x11),
        ] {
            ops.push(Op::store(registers + register, value, 4));
        }
    }
    ops
}

/// Some commands in a port's slots, of which most lead to somewhere.
pub(super) fn ahci(random: &mut Random, ops: &mut Vec<Op>) {
    let port = random.below(4);
    let registers = BAR + 0x100 + port * 0x80;
    let mut slots = 0;
    for _ in 0..=random.below(3) {
        let slot = random.below(32);
        slots |= 1 << slot;
        ahci_command(port, slot, random, ops);
    }
    if random.below(8) == 0 {
        ops.push(Op::Ram(lists(port) + random.below(0x3000), random.next().to_le_bytes().to_vec()));
    }
    if random.below(2) == 0 {
        ops.push(Op::store(registers + 0x34, slots, 4));
    }
    ops.extend([Op::store(registers + 0x38, slots, 4), Op::Serve]);
    if random.below(2) == 0 {
        // What a driver does about an error.
        for (register, value) in [(0x18, 0), (0x10, u64::MAX), (0x30, u64::MAX), (0x18, 0x11)] {
            ops.push(Op::store(registers + register, value, 4));
        }
    }
}

fn ahci_command(port: u64, slot: u64, random: &mut Random, ops: &mut Vec<Op>) {
    const COMMANDS: [u8; 16] =
        [0x20, 0x25, 0x2f, 0x35, 0x30, 0x06, 0x60, 0x61, 0xa0, 0xa0, 0xa0, 0xa1, 0xc8, 0xca, 0xec, 0xef];
    const OPERATIONS: [u8; 17] = [
        0x00, 0x03, 0x12, 0x1a, 0x1b, 0x1e, 0x25, 0x28, 0x2b, 0x43, 0x46, 0x4a, 0x51, 0x5a, 0xa8, 0xbb, 0xbd,
    ];
    let table = lists(port) + 0x1000 + slot * 0x100;
    let regions = random.below(8);
    let header = 5 | random.below(2) << 5 | regions << 16;
    ops.push(Op::Ram(lists(port) + slot * 32, [header, table].map(u64::to_le_bytes).concat()));

    let [l0, l1, l2, l3, l4, l5, ..] = (random.next() >> (16 + random.below(48))).to_le_bytes();
    let [c0, c1, f0, f1, ..] = (random.next() & random.next() & 0x0101_03ff).to_le_bytes();
    let command = COMMANDS[random.below(16) as usize];
    let flags = if random.below(16) == 0 { 0 } else { 0x80 };
    let control = random.below(30) as u8 & 4;
    let mut content = vec![0x27, flags, command, f0, l0, l1, l2, 0x40, l3, l4, l5, f1, c0, c1, 0, control];
    content.resize(0x40, 0);
    content.push(OPERATIONS[random.below(17) as usize]);
    content.extend((0..15).map(|_| random.next() as u8 & random.next() as u8 & random.next() as u8));
    content.resize(0x80, 0);
    for _ in 0..regions {
        let address =
            if random.below(40) == 0 { value(random) } else { DATA + (random.below(DATA_SIZE) & !1) };
        let length = random.next() >> (42 + random.below(22));
        content.extend([address, length << 32].map(u64::to_le_bytes).concat());
    }
    if random.below(20) == 0 {
        content[random.below(0x80) as usize] = random.next() as u8;
    }
    ops.push(Op::Ram(table, content));
}

/// Where a queue's three parts lie.
fn ring(queue: u64) -> u64 {
    0x1_0000 + queue * 0x4000
}

/// Through negotiation, with three queues, to DRIVER_OK.
pub(super) fn start_virtio() -> Vec<Op> {
    set_up_virtio(3, u64::MAX)
}

fn set_up_virtio(queues: u64, features: u64) -> Vec<Op> {
    let set = |register, value, size| Op::store(BAR + register, value, size);
    let mut ops = enable_function();
    ops.extend([set(0x14, 0, 1), set(0x14, 3, 1)]);
    for half in 0..2 {
        ops.extend([set(0x08, half, 4), set(0x0c, features >> (32 * half), 4)]);
    }
    ops.extend([set(0x14, 0x0b, 1), set(0x10, 0, 2)]);
    for queue in 0..queues {
        ops.extend([set(0x16, queue, 2), set(0x18, 32, 2), set(0x1a, queue, 2)]);
        let parts = [(0x20, 0), (0x28, 0x1000), (0x30, 0x2000)];
        ops.extend(parts.map(|(register, offset)| set(register, ring(queue) + offset, 8)));
        ops.push(set(0x1c, 1, 2));
        ops.push(Op::Ram(ring(queue) + 0x1000, vec![0; 0x80]));
        ops.push(Op::Ram(ring(queue) + 0x2000, vec![0; 0x140]));
    }
    ops.push(set(0x14, 0x0f, 1));
    ops
}

/// What a device's requests begin with.
type Header = fn(&mut Random) -> Vec<u8>;

/// A fresh start, and chains of descriptors in one queue, of which most lead to somewhere.
fn virtio(random: &mut Random, ops: &mut Vec<Op>, queues: u64, features: u64, header: Header) {
    let features = features | 1 << 32 | (random.next() & (3 << 28));
    ops.extend(set_up_virtio(queues, features));
    let queue = random.below(queues);
    let mut table = Vec::new();
    for index in 0..32 {
        let wild = random.below(60) == 0;
        let mut address = DATA + random.below(DATA_SIZE);
        let mut length = random.next() >> (48 + random.below(16));
        let head = index % 4 == 0;
        if head {
            let header = header(random);
            length = header.len() as u64;
            ops.push(Op::Ram(address, header));
        }
        let (mut flags, mut next) = (u64::from(random.below(3) != 0), index + 1);
        if !head && random.below(3) != 0 {
            flags |= 2;
        }
        if wild {
            (address, flags, next) = (value(random), random.below(8), random.below(40));
        }
        table.extend(address.to_le_bytes());
        table.extend((length as u32).to_le_bytes());
        table.extend((flags as u16).to_le_bytes());
        table.extend((next as u16).to_le_bytes());
    }
    ops.push(Op::Ram(ring(queue), table));
    let mut offered = 0;
    for _ in 0..=random.below(2) {
        let more = random.below(6) as u16;
        let heads = (0..more).flat_map(|_| (4 * random.below(8) as u16).to_le_bytes()).collect();
        ops.push(Op::Ram(ring(queue) + 0x1004 + 2 * u64::from(offered), heads));
        offered += more;
        let index = if random.below(40) == 0 { random.next() as u16 } else { offered };
        ops.push(Op::Ram(ring(queue) + 0x1002, index.to_le_bytes().to_vec()));
        ops.extend([Op::store(BAR + 0x3000 + 4 * queue, queue, 2), Op::Serve]);
    }
}

/// Reads, writes, flushes, ids, discards and zeroes.
pub(super) fn virtio_blk(random: &mut Random, ops: &mut Vec<Op>) {
    virtio(random, ops, 2, 0x7fff_ffff & !(1 << 29 | 1 << 28), |random| {
        let kind = [0, 1, 4, 8, 11, 13, random.below(32)][random.below(7) as usize];
        let sector = if random.below(8) == 0 { random.next() } else { random.below(140) };
        [kind, sector].map(u64::to_le_bytes).concat()
    });
}

/// Bytes for ports and messages about them.
pub(super) fn virtio_console(random: &mut Random, ops: &mut Vec<Op>) {
    virtio(random, ops, 8, 3, |random| {
        let message = random.below(4) | random.below(9) << 32 | random.below(2) << 48;
        message.to_le_bytes().to_vec()
    });
}

/// Frames, room for frames, and commands.
pub(super) fn virtio_net(random: &mut Random, ops: &mut Vec<Op>) {
    let features = 0x0f7f_ffff & random.next() & !(1 << 29 | 1 << 28) | 1 << 17;
    virtio(random, ops, 3, features, |random| {
        if random.below(2) == 0 {
            let (class, command) = (random.below(6), random.below(6));
            let argument = random.next() >> random.below(64);
            [&[class as u8, command as u8][..], &argument.to_le_bytes()].concat()
        } else {
            let kind = [0, 0, 1, 4, random.below(0x100)][random.below(5) as usize] as u8;
            let mut header = vec![random.below(4) as u8, kind];
            header.resize(12 + random.below(40) as usize, 0);
            header
        }
    });
}

/// Buffers and frames, for a process that comes by after them.
pub(super) fn virtio_vhost_user(random: &mut Random, ops: &mut Vec<Op>) {
    virtio(random, ops, 2, 1 << 5, |random| vec![0; random.below(64) as usize + 1]);
    ops.push(Op::Outside(random.next()));
}

/// Numbers of pages, statistics, and free pages; the balloon's size and the poison beside.
pub(super) fn virtio_balloon(random: &mut Random, ops: &mut Vec<Op>) {
    virtio(random, ops, 5, 0x36, |random| {
        let length = random.below(64) as usize + 1;
        (0..8).flat_map(|_| ((DATA >> 12) + random.below(0x60)).to_le_bytes()).take(length).collect()
    });
    if random.below(4) == 0 {
        ops.push(Op::store(BAR + 0x2004 + 8 * random.below(2), random.next() & random.next(), 4));
    }
}

/// Where a region of pluggable memory begins.
pub(super) const REGION: u64 = 2 << 20;

/// Requests about one or more blocks, after the host has changed its mind.
pub(super) fn virtio_mem(random: &mut Random, ops: &mut Vec<Op>) {
    ops.push(Op::Outside(random.next()));
    virtio(random, ops, 1, 2, |random| {
        let block = REGION + (random.below(9) << 21);
        let address = if random.below(10) == 0 { random.next() } else { block };
        [random.below(5), address, random.below(4)].map(u64::to_le_bytes).concat()
    });
}

/// Flushes, and what is none.
pub(super) fn virtio_pmem(random: &mut Random, ops: &mut Vec<Op>) {
    virtio(random, ops, 1, 0, |random| {
        let kind = if random.below(4) == 0 { random.next() as u32 } else { 0 };
        let length = if random.below(4) == 0 { random.below(8) as usize } else { 4 };
        kind.to_le_bytes().into_iter().cycle().take(length).collect()
    });
}

/// A guest's address.
pub(super) const CID: u64 = 3;

/// Packets of a few ports, with bytes behind them, and room for packets.
pub(super) fn virtio_vsock(random: &mut Random, ops: &mut Vec<Op>) {
    for _ in 0..random.below(6) {
        ops.push(Op::Outside(random.next()));
    }
    virtio(random, ops, 3, 1, |random| {
        let addresses = [CID, if random.below(30) == 0 { random.next() } else { 2 }];
        let ports = [random.below(4), [random.below(4), 1 << 30][random.below(2) as usize]];
        let length = random.below(3) * random.below(40);
        let kind = if random.below(30) == 0 { 2 } else { 1 };
        let op = if random.below(30) == 0 {
            random.next()
        } else {
            [1, 1, 2, 3, 4, 5, 5, 5, 6, 7][random.below(10) as usize]
        };
        let words =
            [length, kind | (op & 0xffff) << 16, random.below(4), 1 << random.below(20), random.below(100)];
        let mut header: Vec<u8> = addresses.iter().flat_map(|address| address.to_le_bytes()).collect();
        header.extend(ports.iter().chain(&words).flat_map(|word| (*word as u32).to_le_bytes()));
        header.resize(header.len() + length as usize, 0x61);
        header
    });
    for _ in 0..random.below(6) {
        ops.push(Op::Outside(random.next()));
    }
}

/// Room for random numbers.
pub(super) fn virtio_rng(random: &mut Random, ops: &mut Vec<Op>) {
    virtio(random, ops, 1, 0, |_| vec![0; 8]);
}
