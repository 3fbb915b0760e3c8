//! The registers (IA-PC HPET specification 1.0a, 2.3).

use bitflags::bitflags;

use crate::layout;

/// How many comparators there are.
pub(super) const TIMERS: usize = 3;
/// The status register has a bit for each.
pub(super) const STATUS_BITS: u64 = (1 << TIMERS) - 1;
/// The main counter's period in femtoseconds: 10 ns.
pub(super) const PERIOD: u32 = 10_000_000;

/// The lower half of the capabilities: vendor Intel, legacy replacement, a counter of 64 bits, and revision 1.
pub(super) const BLOCK_ID: u32 = 0x8086 << 16 | 1 << 15 | 1 << 13 | (TIMERS as u32 - 1) << 8 | 1;
/// A comparator's capabilities, upper half: the lines to which it can be routed.
const ROUTES: u64 = (1 << layout::HPET_ROUTES.end) - (1 << layout::HPET_ROUTES.start);

/// A register of 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Register {
    /// GCAP_ID.
    Capabilities,
    /// GEN_CONF.
    Configuration,
    /// GINTR_STA.
    Status,
    /// MAIN_CNT.
    Counter,
    /// TIMn_CONF.
    TimerConfiguration(usize),
    /// TIMn_COMP.
    Comparator(usize),
    /// What has no meaning, such as the addresses for FSB interrupts, which no comparator can send.
    Reserved,
}

impl Register {
    /// The register at `offset`, and which of its bytes.
    pub(super) fn at(offset: u64) -> (Self, usize) {
        let timer = |from: u64| usize::try_from(offset.saturating_sub(from) / 0x20).unwrap_or(usize::MAX);
        let register = match offset & !7 {
            0x000 => Self::Capabilities,
            0x010 => Self::Configuration,
            0x020 => Self::Status,
            0x0f0 => Self::Counter,
            0x100 | 0x120 | 0x140 => Self::TimerConfiguration(timer(0x100)),
            0x108 | 0x128 | 0x148 => Self::Comparator(timer(0x108)),
            _ => Self::Reserved,
        };
        (register, usize::try_from(offset & 7).unwrap_or(0))
    }
}

/// The general capabilities.
pub(super) fn capabilities() -> u64 {
    u64::from(PERIOD) << 32 | u64::from(BLOCK_ID)
}

bitflags! {
    /// The general configuration.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct Configuration: u64 {
        /// The main counter runs, and comparators interrupt.
        const ENABLE = 1 << 0;
        /// Comparators 0 and 1 interrupt in place of PIT and RTC.
        const LEGACY_ROUTE = 1 << 1;
    }

    /// A comparator's configuration.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct TimerConfiguration: u64 {
        /// It asserts its line until its status is cleared, in place of making an edge.
        const LEVEL = 1 << 1;
        /// It interrupts.
        const INTERRUPT = 1 << 2;
        const PERIODIC = 1 << 3;
        /// The next write sets the comparator of a periodic timer as well as its period.
        const SET_VALUE = 1 << 6;
        /// It works with the lower half of the counter.
        const MODE_32 = 1 << 8;
        /// The line to which it is routed.
        const ROUTE = 0x1f << 9;

        /// It can be periodic, and has 64 bits (read only).
        const CAPABILITIES = 1 << 4 | 1 << 5 | ROUTES << 32;
    }
}

impl TimerConfiguration {
    /// The line that ROUTE names, if it can be routed there.
    pub(super) fn route(self) -> Option<u32> {
        let line = u32::try_from((self & Self::ROUTE).bits() >> 9).ok()?;
        layout::HPET_ROUTES.contains(&line).then_some(line)
    }

    /// What a write of `value` makes of it. A route that there is not leaves the old one, by which the guest
    /// knows (2.3.8); 0 is none.
    pub(super) fn written(self, value: u64) -> Self {
        let mut new = Self::from_bits_truncate(value) | Self::CAPABILITIES;
        if new.route().is_none() && new.intersects(Self::ROUTE) {
            new = new.difference(Self::ROUTE) | (self & Self::ROUTE);
        }
        new & (Self::all().difference(Self::CAPABILITIES)) | Self::CAPABILITIES
    }
}
