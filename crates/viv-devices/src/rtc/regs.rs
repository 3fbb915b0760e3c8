//! Registers of the MC146818 (Motorola MC146818A data sheet), by index, and the bytes of CMOS RAM that PC
//! firmware gave a meaning.

use bitflags::bitflags;

pub(super) const SECONDS: u8 = 0x00;
pub(super) const SECONDS_ALARM: u8 = 0x01;
pub(super) const MINUTES: u8 = 0x02;
pub(super) const MINUTES_ALARM: u8 = 0x03;
pub(super) const HOURS: u8 = 0x04;
pub(super) const HOURS_ALARM: u8 = 0x05;
pub(super) const DAY_OF_WEEK: u8 = 0x06;
pub(super) const DAY_OF_MONTH: u8 = 0x07;
pub(super) const MONTH: u8 = 0x08;
pub(super) const YEAR: u8 = 0x09;
pub(super) const A: u8 = 0x0a;
pub(super) const B: u8 = 0x0b;
pub(super) const C: u8 = 0x0c;
pub(super) const D: u8 = 0x0d;
/// The century, in the same format as the year.
pub(super) const CENTURY: u8 = 0x32;

/// Base memory in KiB, two bytes.
pub(super) const BASE_MEMORY: u8 = 0x15;
/// Memory from 1 MiB on in KiB, up to 64 MiB, two bytes.
pub(super) const EXTENDED_MEMORY: u8 = 0x17;
/// The same again, as the power-on self-test found it.
pub(super) const EXTENDED_MEMORY_FOUND: u8 = 0x30;
/// Memory from 16 MiB to 4 GiB in units of 64 KiB, two bytes.
pub(super) const MEMORY_ABOVE_16_MIB: u8 = 0x34;
/// Memory from 4 GiB on in units of 64 KiB, three bytes.
pub(super) const MEMORY_ABOVE_4_GIB: u8 = 0x5b;

/// Register A: an update is about to happen (read only).
pub(super) const A_UPDATE_IN_PROGRESS: u8 = 0x80;
/// Register A after power-on: the time base is 32,768 Hz, the periodic rate 1,024 Hz.
pub(super) const A_POWER_ON: u8 = 0x26;
/// Register D: RAM and time are valid.
pub(super) const D_VALID: u8 = 0x80;

/// Whether register A holds the divider in reset.
pub(super) fn divider_in_reset(a: u8) -> bool {
    a & 0x60 == 0x60
}

/// The period of register A's rate, in ticks of 32,768 Hz.
pub(super) fn periodic_ticks(a: u8) -> Option<u64> {
    match a & 0x0f {
        0 => None,
        // The first two repeat the rates 8 and 9.
        rate @ (1 | 2) => Some(64 << rate),
        rate => Some(1 << rate.saturating_sub(1)),
    }
}

bitflags! {
    /// Register B.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct Control: u8 {
        const DAYLIGHT_SAVING = 1 << 0;
        const HOURS_24 = 1 << 1;
        const BINARY = 1 << 2;
        const SQUARE_WAVE = 1 << 3;
        const UPDATE_INTERRUPT = 1 << 4;
        const ALARM_INTERRUPT = 1 << 5;
        const PERIODIC_INTERRUPT = 1 << 6;
        /// The guest is setting the time: it stands still.
        const SET = 1 << 7;
    }

    /// Register C. The flags lie where register B enables them.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct Flags: u8 {
        const UPDATE = 1 << 4;
        const ALARM = 1 << 5;
        const PERIODIC = 1 << 6;
        const INTERRUPT = 1 << 7;
    }
}

impl Control {
    /// What reset clears.
    pub(super) const CLEARED_BY_RESET: Self = Self::SQUARE_WAVE
        .union(Self::UPDATE_INTERRUPT)
        .union(Self::ALARM_INTERRUPT)
        .union(Self::PERIODIC_INTERRUPT);
}
