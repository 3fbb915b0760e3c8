//! Random programs: what a guest, and the world, do to devices.

use std::fmt;

use super::Target;
use super::bench::RAM;
use crate::testing::Random;

/// Where an access goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Port(u16),
    Memory(u64),
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => write!(f, "port {port:#x}"),
            Self::Memory(address) => write!(f, "memory {address:#x}"),
        }
    }
}

/// One step of a program.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Op {
    Read(Place, usize),
    Write(Place, Vec<u8>),
    /// Guest RAM gets these bytes.
    Ram(u64, Vec<u8>),
    /// Nanoseconds pass.
    Pass(u64),
    /// The thread for devices has a turn.
    Serve,
    /// Something happens outside.
    Outside(u64),
    /// The machine is saved, and goes on as a copy too.
    Move,
    /// A copy with a damaged state is made and thrown away; the number says what is damaged.
    Damage(u64),
    Reset,
}

impl Op {
    /// Writes the lower `size` bytes of a value.
    pub(crate) fn write(place: Place, value: u64, size: usize) -> Self {
        Self::Write(place, value.to_le_bytes()[..size].to_vec())
    }

    pub(crate) fn out(port: u16, value: u64, size: usize) -> Self {
        Self::write(Place::Port(port), value, size)
    }

    pub(crate) fn store(address: u64, value: u64, size: usize) -> Self {
        Self::write(Place::Memory(address), value, size)
    }
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(place, size) => write!(f, "read {size} at {place:?}"),
            Self::Write(place, data) => write!(f, "write {data:02x?} at {place:?}"),
            Self::Ram(address, data) => write!(f, "RAM at {address:#x} holds {data:02x?}"),
            Self::Pass(nanoseconds) => write!(f, "{nanoseconds} ns pass"),
            Self::Serve => f.write_str("the thread for devices has a turn"),
            Self::Outside(what) => write!(f, "{what:#x} happens outside"),
            Self::Move => f.write_str("a copy is made"),
            Self::Damage(how) => write!(f, "a copy is made from a damaged state, {how:#x}"),
            Self::Reset => f.write_str("reset"),
        }
    }
}

/// Addresses that random accesses go to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Area {
    /// From a port on, so many.
    Ports(u16, u16),
    /// From an address on, so many.
    Memory(u64, u64),
}

impl Area {
    fn place(self, random: &mut Random) -> Place {
        match self {
            Self::Ports(first, count) => Place::Port(first + random.below(count.into()) as u16),
            Self::Memory(start, size) => {
                // Registers are at the beginning, and aligned, more often than not.
                let offset = match random.below(4) {
                    0 => random.below(size),
                    1 => random.below(size) & !7,
                    _ => random.below(size.min(0x200)) & !3,
                };
                Place::Memory(start + offset)
            }
        }
    }
}

/// A value of some kind that devices may have a mind of.
pub(crate) fn value(random: &mut Random) -> u64 {
    match random.below(8) {
        0 => 0,
        1 => u64::MAX,
        2 => 1 << random.below(64),
        3 => (1 << random.below(64)) - 1,
        4 => random.below(RAM),
        5 => random.next() & random.next() & random.next(),
        _ => random.next() >> random.below(64),
    }
}

/// The program that a seed gives.
pub(crate) fn program(target: &Target, seed: u64, length: usize) -> Vec<Op> {
    // Neighbouring seeds must not give neighbouring programs, and xorshift has no way out of 0.
    let mut random = Random(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    (0..8).for_each(|_| _ = random.next());
    let mut ops = (target.prologue)();
    let prologue = ops.len();
    while ops.len() < length {
        match random.below(64) {
            0 => ops.push(Op::Reset),
            1 => ops.extend((target.prologue)()),
            2 => ops.push(Op::Move),
            3 => ops.push(Op::Damage(random.next())),
            4..8 => ops.push(Op::Pass(random.next() >> (24 + random.below(40)))),
            8..16 => ops.push(Op::Serve),
            16..20 => ops.push(Op::Outside(random.next())),
            20..32 => (target.idiom)(&mut random, &mut ops),
            32..34 => ops.push(Op::Ram(random.below(RAM), value(&mut random).to_le_bytes().to_vec())),
            _ => ops.push(access(target, &mut random)),
        }
    }
    ops.truncate(length.max(prologue));
    ops
}

fn access(target: &Target, random: &mut Random) -> Op {
    let area = target.areas[random.below(target.areas.len() as u64) as usize];
    let place = area.place(random);
    let size = match place {
        Place::Port(_) => 1 << random.below(3),
        Place::Memory(_) if random.below(4) == 0 => 1 + random.below(8) as usize,
        Place::Memory(_) => 1 << random.below(4),
    };
    if random.below(3) == 0 { Op::Read(place, size) } else { Op::write(place, value(random), size) }
}
