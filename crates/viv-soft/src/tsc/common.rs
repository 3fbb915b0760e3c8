//! What keeps the TSCs of a machine's vCPUs in step.
//!
//! A state says what a TSC showed when it was saved, and vCPUs are saved and loaded one after the other. Taken at its word
//! each would be as far behind the one before as loading took. So what differs by less than a second is taken for the same
//! (as KVM does), but for what the guest itself has set apart by IA32_TSC_ADJUST.

use std::sync::{Mutex, PoisonError};

use super::{GuestTsc, Timebase, host_tsc};

/// The common part of all offsets.
#[derive(Debug)]
pub struct CommonTsc {
    timebase: Timebase,
    base: Mutex<Base>,
}

#[derive(Debug, Clone, Copy)]
struct Base {
    /// Guest TSC without its adjustment, less host TSC, modulo 2⁶⁴.
    offset: u64,
    /// Whether it is what a state said.
    is_restored: bool,
}

impl CommonTsc {
    /// For TSCs that start at 0 now.
    #[must_use]
    pub fn new(timebase: Timebase) -> Self {
        let base = Base { offset: host_tsc().wrapping_neg(), is_restored: false };
        Self { timebase, base: Mutex::new(base) }
    }

    /// That of a vCPU without an adjustment.
    #[must_use]
    pub fn get(&self) -> GuestTsc {
        let base = *self.base.lock().unwrap_or_else(PoisonError::into_inner);
        GuestTsc::with_offset(self.timebase, base.offset)
    }

    /// That of a vCPU whose TSC showed `tsc` when its state was saved, of which `adjust` was its adjustment.
    #[must_use]
    pub fn restore(&self, tsc: u64, adjust: u64) -> GuestTsc {
        let mut base = self.base.lock().unwrap_or_else(PoisonError::into_inner);
        let offset = tsc.wrapping_sub(adjust).wrapping_sub(host_tsc());
        let ahead = offset.wrapping_sub(base.offset).cast_signed();
        let is_near = ahead.unsigned_abs() < self.timebase.ticks(1_000_000_000);
        // A guest's TSC does not go back: what comes from another machine counts, if it is ahead.
        if !is_near || (ahead > 0 && !base.is_restored) {
            *base = Base { offset, is_restored: true };
        }
        GuestTsc::with_offset(self.timebase, base.offset.wrapping_add(adjust))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tsc::host_tsc_khz;

    fn common() -> CommonTsc {
        CommonTsc::new(Timebase::new(host_tsc_khz()))
    }

    #[test]
    fn those_that_start_together_stay_together() {
        let common = common();
        let first = common.get();
        assert_eq!([common.restore(0, 0), common.restore(0, 0)], [first; 2]);
        assert!(first.now() < common.timebase.ticks(10_000_000_000));
    }

    #[test]
    fn what_a_state_says_holds_for_those_after_it() {
        let common = common();
        let hour = common.timebase.ticks(3_600_000_000_000);
        let first = common.restore(hour, 0);
        assert!(first.now() >= hour);
        assert_eq!(common.restore(hour + 5_000, 0), first);
        assert_eq!(common.restore(hour - 5_000, 0), first);
        assert_ne!(common.restore(2 * hour, 0), first);
    }

    #[test]
    fn a_state_that_is_ahead_by_little_is_not_set_back() {
        let common = common();
        let tsc = common.timebase.ticks(500_000_000);
        assert!(common.restore(tsc, 0).now() >= tsc);
    }

    #[test]
    fn adjustments_stay() {
        let common = common();
        let first = common.get();
        let apart = common.restore(700, 700);
        assert_eq!(apart.offset().wrapping_sub(first.offset()), 700);
    }
}
