//! The time-stamp counter: the host's, and the guest's at an offset from it.
//!
//! The guest's TSC runs at the host's rate, so that reading it costs one host instruction and an addition.

mod common;
mod host;

use std::time::{Duration, Instant};

pub use common::CommonTsc;
pub use host::{host_tsc, host_tsc_khz};

/// Conversion between TSC ticks and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timebase {
    khz: u32,
}

impl Timebase {
    /// Of a TSC of `khz` kHz; 0 is taken for 1.
    #[must_use]
    pub const fn new(khz: u32) -> Self {
        Self { khz: if khz == 0 { 1 } else { khz } }
    }

    /// The frequency in kHz.
    #[must_use]
    pub const fn khz(self) -> u32 {
        self.khz
    }

    /// Nanoseconds in `ticks`, rounded down.
    #[must_use]
    pub fn nanoseconds(self, ticks: u64) -> u64 {
        saturate(u128::from(ticks) * 1_000_000 / u128::from(self.khz))
    }

    /// Ticks that take at least `nanoseconds`.
    #[must_use]
    pub fn ticks(self, nanoseconds: u64) -> u64 {
        saturate((u128::from(nanoseconds) * u128::from(self.khz)).div_ceil(1_000_000))
    }
}

/// The TSC that a guest sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestTsc {
    timebase: Timebase,
    /// Guest TSC less host TSC, modulo 2⁶⁴.
    pub(crate) offset: u64,
}

impl GuestTsc {
    /// One at `offset` from the host's. vCPUs with the same offset are in step.
    #[must_use]
    pub const fn with_offset(timebase: Timebase, offset: u64) -> Self {
        Self { timebase, offset }
    }

    /// Guest TSC less host TSC, modulo 2⁶⁴.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// What the guest's TSC shows now.
    #[inline]
    #[must_use]
    pub fn now(&self) -> u64 {
        host_tsc().wrapping_add(self.offset)
    }

    /// Moves it by `delta` ticks, as a write of IA32_TSC or IA32_TSC_ADJUST does. The local APIC must be told:
    /// [`LocalApic::adjust_tsc`](crate::apic::LocalApic::adjust_tsc).
    pub const fn adjust(&mut self, delta: i64) {
        self.offset = self.offset.wrapping_add_signed(delta);
    }

    /// When, on the host's clock, it will show `deadline`: now, if it has passed it. `None` beyond what the host's
    /// clock can name.
    #[must_use]
    pub fn instant_of(&self, deadline: u64) -> Option<Instant> {
        let left = deadline.saturating_sub(self.now());
        let left = Duration::from_nanos(self.timebase.nanoseconds(left).saturating_add(1));
        Instant::now().checked_add(left)
    }
}

fn saturate(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions_round_so_that_a_wait_is_never_short() {
        for khz in [1, 999, 1_000_000, 2_299_998, 3_700_001, u32::MAX] {
            let timebase = Timebase::new(khz);
            for ns in [0, 1, 2, 999, 1_000_000, 86_400_000_000_000, 1 << 60] {
                let ticks = timebase.ticks(ns);
                assert!(ticks == u64::MAX || timebase.nanoseconds(ticks) >= ns, "{khz} kHz, {ns} ns");
            }
        }
        assert_eq!(Timebase::new(2_000_000).nanoseconds(u64::MAX), u64::MAX / 2);
        assert_eq!(Timebase::new(1).nanoseconds(u64::MAX), u64::MAX);
        assert_eq!(Timebase::new(0).khz(), 1);
    }

    #[test]
    fn the_guest_counter_starts_where_told_and_does_not_go_back() {
        let timebase = Timebase::new(host_tsc_khz());
        let mut tsc = GuestTsc::with_offset(timebase, 1_000u64.wrapping_sub(host_tsc()));
        let first = tsc.now();
        assert!(first >= 1_000);
        assert!(tsc.now() >= first);
        assert_eq!(GuestTsc::with_offset(timebase, tsc.offset()), tsc);
        tsc.adjust(1 << 50);
        assert!(tsc.now() >= 1 << 50);
        tsc.adjust(-(1 << 50));
        assert!(tsc.now() < 1 << 50);
    }

    #[test]
    fn at_the_instant_of_a_deadline_the_counter_has_passed_it() {
        let tsc = GuestTsc::with_offset(Timebase::new(host_tsc_khz()), host_tsc().wrapping_neg());
        let before = Instant::now();
        let instant = tsc.instant_of(tsc.now() + tsc.timebase.ticks(1_000_000_000)).unwrap();
        assert!(instant >= before + Duration::from_millis(999));
        assert!(tsc.instant_of(0).unwrap() <= Instant::now() + Duration::from_nanos(1));
    }
}
