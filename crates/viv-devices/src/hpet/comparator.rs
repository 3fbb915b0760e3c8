//! One comparator: when the main counter matches it.

use super::regs::TimerConfiguration;
use super::state::TimerState;

/// A comparator, which the specification also calls a timer.
#[derive(Debug, Clone)]
pub(super) struct Comparator {
    configuration: TimerConfiguration,
    value: u64,
    /// What is added to the value of a periodic one when the counter matches it.
    period: u64,
}

impl Comparator {
    pub(super) const POWER_ON: Self =
        Self { configuration: TimerConfiguration::CAPABILITIES, value: u64::MAX, period: 0 };

    pub(super) fn configuration(&self) -> TimerConfiguration {
        self.configuration
    }

    pub(super) fn value(&self) -> u64 {
        self.value
    }

    pub(super) fn set_configuration(&mut self, value: u64) {
        self.configuration = self.configuration.written(value);
        self.value &= self.mask();
        self.period &= self.mask();
    }

    /// The guest writes the comparator register; `merge` puts what is written in place of a part of the old.
    /// Of a periodic timer this is the period, and the value too if that was asked for (2.3.9.2).
    pub(super) fn write(&mut self, merge: impl Fn(u64) -> u64) {
        let periodic = self.is_periodic();
        if periodic {
            self.period = merge(self.period) & self.mask();
        }
        if !periodic || self.configuration.contains(TimerConfiguration::SET_VALUE) {
            self.value = merge(self.value) & self.mask();
        }
        self.configuration.remove(TimerConfiguration::SET_VALUE);
    }

    pub(super) fn is_periodic(&self) -> bool {
        self.configuration.contains(TimerConfiguration::PERIODIC)
    }

    /// The bits that are compared.
    fn mask(&self) -> u64 {
        if self.configuration.contains(TimerConfiguration::MODE_32) { u32::MAX.into() } else { u64::MAX }
    }

    /// In how many ticks, from 1 on, a counter that is at `counter` matches next. `None` is 2^64, which is
    /// never.
    pub(super) fn distance(&self, counter: u64) -> Option<u64> {
        match self.value.wrapping_sub(counter) & self.mask() {
            0 => self.mask().checked_add(1),
            distance => Some(distance),
        }
    }

    /// The counter moves on by `elapsed` ticks from `counter`. Says whether it matches on the way; matches that
    /// were missed are one.
    pub(super) fn pass(&mut self, counter: u64, elapsed: u64) -> bool {
        let Some(rest) = self.distance(counter).and_then(|distance| elapsed.checked_sub(distance)) else {
            return false;
        };
        if self.is_periodic() {
            let periods = rest.checked_div(self.period).unwrap_or(0).saturating_add(1);
            self.value = self.value.wrapping_add(self.period.wrapping_mul(periods)) & self.mask();
        }
        true
    }

    pub(super) fn save(&self) -> TimerState {
        TimerState { configuration: self.configuration.bits(), comparator: self.value, period: self.period }
    }

    pub(super) fn restore(state: &TimerState) -> Self {
        let mut comparator = Self {
            configuration: TimerConfiguration::empty(),
            value: state.comparator,
            period: state.period,
        };
        comparator.set_configuration(state.configuration);
        comparator
    }
}
