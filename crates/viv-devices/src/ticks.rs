//! Guest time in a device's own clock ticks.

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// The frequency of a device's clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frequency(pub u32);

impl Frequency {
    /// How many ticks there have been at `nanos` nanoseconds of guest time.
    pub(crate) fn ticks(self, nanos: u64) -> u64 {
        let ticks = u128::from(nanos).saturating_mul(self.0.into()) / NANOS_PER_SECOND;
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }

    /// The guest time in nanoseconds from which on there have been `ticks` ticks.
    pub(crate) fn nanos(self, ticks: u64) -> u64 {
        let nanos = u128::from(ticks).saturating_mul(NANOS_PER_SECOND).div_ceil(u128::from(self.0.max(1)));
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_has_come_at_its_time_and_not_before() {
        let pit = Frequency(1_193_182);
        for tick in [1, 2, 3, 1_193_182, 987_654_321_123] {
            let nanos = pit.nanos(tick);
            assert_eq!(pit.ticks(nanos), tick);
            assert_eq!(pit.ticks(nanos - 1), tick - 1);
        }
        assert_eq!(pit.nanos(u64::MAX), u64::MAX);
    }
}
