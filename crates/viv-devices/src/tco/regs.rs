//! The watchdog's registers (ICH9 data sheet, 13.9), of 16 bits each, and how long a tick is.

use bitflags::bitflags;

use crate::layout;

bitflags! {
    /// TCO1_STS and TCO2_STS, the latter in the upper half; written ones clear.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct Status: u32 {
        /// TCO1_STS.TIMEOUT: the timer has come to zero.
        const TIMEOUT = 1 << 3;
        /// TCO2_STS.SECOND_TO_STS: it has done so twice, and the watchdog has expired.
        const SECOND_TIMEOUT = 1 << 17;
    }
}

/// TCO1_CNT.TCO_TMR_HLT: the timer stands still.
pub(super) const HALT: u16 = 1 << 11;
/// The bits of the timer and of what it begins with.
pub(super) const COUNT: u16 = 0x3ff;
/// What the timer begins with after power-on, in ticks.
pub(super) const POWER_ON_COUNT: u16 = 4;
/// The least that the timer begins with; less is ignored.
pub(super) const LEAST_COUNT: u16 = 2;
/// A tick, in nanoseconds: 0.6 s.
pub(super) const TICK: u64 = 600_000_000;

/// A register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Register {
    /// TCO_RLD: what is left of the timer; a write starts it from its beginning.
    Reload,
    /// TCO1_STS.
    Status1,
    /// TCO2_STS.
    Status2,
    /// TCO1_CNT.
    Control,
    /// TCO_TMR: what the timer begins with.
    Initial,
    /// One for what this watchdog does not do.
    Reserved,
}

impl Register {
    /// The register at a port, and which of its bytes.
    pub(super) fn at(port: u16) -> (Self, usize) {
        let offset = port.wrapping_sub(layout::TCO.start);
        let register = match offset & !1 {
            0x00 => Self::Reload,
            0x04 => Self::Status1,
            0x06 => Self::Status2,
            0x08 => Self::Control,
            0x12 => Self::Initial,
            _ => Self::Reserved,
        };
        (register, usize::from(offset & 1))
    }
}
