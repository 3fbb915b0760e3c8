//! How much of a device a guest may use: so many requests and so many bytes a second, with bursts of a second's worth.
//! What has to wait stays where it is, as in the guest's ring; nothing is lost.
//!
//! For each limit it is known until when the work that was let through is paid for. Work is let through while that is
//! not in the future, and moves it on by its cost; an idle time counts for a second at most.

use std::num::NonZeroU64;
use std::sync::Arc;

use viv_engine::{Clock, Timer};

/// A second, in nanoseconds: what can be saved up.
const BURST: u64 = 1_000_000_000;

/// How much a device may do in a second of guest time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests, or packets.
    pub requests: Option<NonZeroU64>,
    /// Bytes.
    pub bytes: Option<NonZeroU64>,
}

/// The keeper of [`Limits`].
pub struct Throttle {
    limits: Limits,
    clock: Arc<dyn Clock>,
    timer: Arc<dyn Timer>,
    paid: Paid,
}

/// Until when requests and bytes are paid for, in nanoseconds of guest time plus [`BURST`].
pub(super) type Paid = [u64; 2];

impl Throttle {
    /// One that has a whole burst to give. When work had to wait, `timer` is set for the time at which the device's
    /// `resume` is to be called, as [`Block::resume`](super::Block::resume).
    #[must_use]
    pub fn new(limits: Limits, clock: Arc<dyn Clock>, timer: Arc<dyn Timer>) -> Self {
        Self { limits, clock, timer, paid: Paid::default() }
    }

    /// Lets a request through that moves so many bytes, or has the timer set for when to ask again.
    pub(super) fn admit(&mut self, bytes: u64) -> bool {
        let open = self.is_open();
        if open {
            self.charge(1, bytes);
        }
        open
    }

    /// Whether something may pass, whatever it costs; if not the timer is set for when to ask again.
    pub(super) fn is_open(&self) -> bool {
        let now = self.now();
        let limits = [self.limits.requests, self.limits.bytes];
        let due = self.paid.iter().zip(limits).find(|(paid, limit)| limit.is_some() && **paid > now);
        if let Some((paid, _)) = due {
            self.timer.arm(paid.saturating_sub(BURST));
        }
        due.is_none()
    }

    /// Notes what has passed.
    pub(super) fn charge(&mut self, requests: u64, bytes: u64) {
        let now = self.now();
        let limits = [(self.limits.requests, requests), (self.limits.bytes, bytes)];
        for (paid, (limit, cost)) in self.paid.iter_mut().zip(limits) {
            let Some(limit) = limit else { continue };
            let cost = u128::from(cost).saturating_mul(u128::from(BURST)).div_ceil(u128::from(limit.get()));
            let since = (*paid).max(now.saturating_sub(BURST));
            *paid = since.saturating_add(u64::try_from(cost).unwrap_or(u64::MAX));
        }
    }

    /// The time, on the scale of [`Paid`].
    fn now(&self) -> u64 {
        self.clock.now().saturating_add(BURST)
    }

    pub(super) fn paid(&self) -> Paid {
        self.paid
    }

    pub(super) fn set_paid(&mut self, paid: Paid) {
        self.paid = paid;
    }
}

#[cfg(test)]
mod tests {
    use viv_engine::time::ManualClock;

    use super::*;
    use crate::testing::Alarm;

    fn throttle(requests: u64, bytes: u64) -> (Throttle, Arc<ManualClock>, Arc<Alarm>) {
        let (clock, alarm) = (Arc::<ManualClock>::default(), Arc::<Alarm>::default());
        let limits = Limits { requests: NonZeroU64::new(requests), bytes: NonZeroU64::new(bytes) };
        (Throttle::new(limits, clock.clone(), alarm.clone()), clock, alarm)
    }

    fn admitted(throttle: &mut Throttle, bytes: u64) -> u64 {
        (0..100_000).take_while(|_| throttle.admit(bytes)).count() as u64
    }

    #[test]
    fn a_second_is_saved_up_and_no_more() {
        let (mut throttle, clock, alarm) = throttle(100, 0);
        assert_eq!(admitted(&mut throttle, 4096), 101);
        assert_eq!(alarm.deadline(), Some(10_000_000));
        clock.advance(10_000_000);
        assert_eq!(admitted(&mut throttle, 4096), 1);
        clock.advance(60_000_000_000);
        assert_eq!(admitted(&mut throttle, 4096), 101);
    }

    #[test]
    fn over_a_long_time_the_rate_is_what_was_asked_for() {
        let (mut throttle, clock, alarm) = throttle(0, 1 << 20);
        let mut bytes = 0;
        for _ in 0..1000 {
            bytes += admitted(&mut throttle, 70_000) * 70_000;
            clock.advance(alarm.deadline().unwrap() - clock.now());
        }
        // A burst before, and a second that has begun.
        let seconds = clock.now() / 1_000_000_000;
        assert!(
            seconds > 50 && bytes / (seconds + 2) <= 1 << 20 && bytes / seconds >= 1 << 20,
            "{bytes} {seconds}"
        );
    }

    #[test]
    fn a_request_larger_than_a_burst_passes_and_is_paid_for_afterwards() {
        let (mut throttle, clock, alarm) = throttle(1000, 1000);
        assert!(throttle.admit(10_000) && !throttle.admit(1));
        assert_eq!(alarm.deadline(), Some(9_000_000_000));
        clock.advance(9_000_000_000);
        assert!(throttle.admit(1));
    }

    #[test]
    fn what_is_not_limited_is_free() {
        let (mut throttle, _, alarm) = throttle(0, 0);
        assert_eq!((admitted(&mut throttle, u64::MAX), alarm.deadline()), (100_000, None));
    }
}
