//! Wakes running vCPUs when their timers are due.
//!
//! A vCPU that executes guest code reads no clock: it looks at its [`Inbox`]. The [`Alarm`], one thread for all
//! vCPUs of a machine, posts there when a deadline has passed. A vCPU in HLT does without: its own
//! [`Inbox::wait`] has the deadline.
//!
//! Guests arm their timers again at each tick, so arming must be cheap: it is a store, and a system call only if
//! the new deadline is before the one that the thread sleeps for.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use viv_jail::ThreadKind;

use crate::inbox::Inbox;

/// Deadline of a vCPU that has none, and what the thread sleeps for if nobody has.
const NEVER: u64 = u64::MAX;
/// What the thread "sleeps for" while it is awake: no deadline is before it, so nobody wakes it. It looks at all
/// deadlines once more before it sleeps.
const AWAKE: u64 = 0;

/// The alarm of one machine.
#[derive(Debug)]
pub struct Alarm {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    /// What times are counted from.
    epoch: Instant,
    slots: Box<[Slot]>,
    /// When the thread will look next, in nanoseconds since `epoch`.
    sleeping_until: AtomicU64,
    stop: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
}

#[derive(Debug)]
struct Slot {
    /// In nanoseconds since the epoch.
    deadline: AtomicU64,
    inbox: Arc<Inbox>,
}

impl Alarm {
    /// Starts the alarm of the vCPUs with these inboxes.
    ///
    /// # Errors
    /// When the host gives no thread.
    pub fn new(inboxes: impl IntoIterator<Item = Arc<Inbox>>) -> std::io::Result<Self> {
        let slots =
            inboxes.into_iter().map(|inbox| Slot { deadline: AtomicU64::new(NEVER), inbox }).collect();
        let shared = Arc::new(Shared {
            epoch: Instant::now(),
            slots,
            sleeping_until: AtomicU64::new(AWAKE),
            stop: AtomicBool::new(false),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        });
        let thread = viv_jail::spawn(ThreadKind::Alarm, "alarm", {
            let shared = Arc::clone(&shared);
            move || {
                // The default slack is 50 µs, of the order of a guest's shorter timers. Late alarms are what
                // remains if the host refuses.
                let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1_000));
                shared.run();
            }
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Sets vCPU `vcpu`'s deadline in place of an earlier one; `None` forgets it. Once it has passed, the vCPU
    /// finds [`Taken::timer`](crate::inbox::Taken::timer) in its inbox, once. An alarm that was on its way when
    /// the deadline changed may still arrive.
    ///
    /// # Panics
    /// If there is no such vCPU.
    pub fn set(&self, vcpu: usize, deadline: Option<Instant>) {
        let deadline = deadline.map_or(NEVER, |deadline| self.shared.nanoseconds(deadline));
        self.shared.slots[vcpu].deadline.store(deadline, Ordering::SeqCst);
        // The thread stores `sleeping_until` and then looks at the deadlines; here it is the other way round, so
        // either it sees this deadline, or this sees how long it would sleep.
        if deadline < self.shared.sleeping_until.load(Ordering::SeqCst) {
            self.shared.notify();
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.notify();
        if let Some(thread) = self.thread.take() {
            // It cannot have panicked, and there would be nobody to tell.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// `instant` in nanoseconds since the epoch: after [`AWAKE`], before [`NEVER`].
    fn nanoseconds(&self, instant: Instant) -> u64 {
        let since = instant.saturating_duration_since(self.epoch).as_nanos();
        u64::try_from(since).unwrap_or(NEVER).clamp(AWAKE + 1, NEVER - 1)
    }

    /// The thread.
    fn run(&self) {
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.stop.load(Ordering::SeqCst) {
            let next = self.fire();
            self.sleeping_until.store(next, Ordering::SeqCst);
            if self.earliest() >= next && !self.stop.load(Ordering::SeqCst) {
                guard = if next == NEVER {
                    self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner)
                } else {
                    let left = next.saturating_sub(self.nanoseconds(Instant::now()));
                    let left = Duration::from_nanos(left);
                    self.wake.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0
                };
            }
            self.sleeping_until.store(AWAKE, Ordering::SeqCst);
        }
    }

    /// Posts to every vCPU whose deadline has passed, and returns the earliest of those that have not.
    fn fire(&self) -> u64 {
        let now = self.nanoseconds(Instant::now());
        for slot in &self.slots {
            let deadline = slot.deadline.load(Ordering::SeqCst);
            // If it has just been changed, the new one is not touched: the next look will judge it.
            if deadline <= now
                && slot.deadline.compare_exchange(deadline, NEVER, Ordering::SeqCst, Ordering::SeqCst).is_ok()
            {
                slot.inbox.post_timer();
            }
        }
        self.earliest()
    }

    fn earliest(&self) -> u64 {
        self.slots.iter().map(|slot| slot.deadline.load(Ordering::SeqCst)).min().unwrap_or(NEVER)
    }

    fn notify(&self) {
        let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbox::Woken;

    fn alarm(vcpus: usize) -> (Alarm, Vec<Arc<Inbox>>) {
        let inboxes: Vec<_> = (0..vcpus).map(|_| Arc::new(Inbox::new().unwrap())).collect();
        (Alarm::new(inboxes.clone()).unwrap(), inboxes)
    }

    /// Waits for the alarm; the long deadline only turns a hang into a failure.
    fn wait_for_alarm(inbox: &Inbox) {
        assert_eq!(inbox.wait(Some(Instant::now() + Duration::from_secs(60))), Woken::Attention);
        assert!(inbox.take().timer);
    }

    #[test]
    fn it_posts_to_the_vcpu_whose_deadline_has_passed_and_not_before() {
        let (alarm, inboxes) = alarm(2);
        let deadline = Instant::now() + Duration::from_millis(5);
        alarm.set(1, Some(deadline));
        wait_for_alarm(&inboxes[1]);
        assert!(Instant::now() >= deadline);
        assert!(!inboxes[0].attention());
    }

    #[test]
    fn an_earlier_deadline_shortens_its_sleep() {
        let (alarm, inboxes) = alarm(2);
        alarm.set(0, Some(Instant::now() + Duration::from_secs(3600)));
        while alarm.shared.sleeping_until.load(Ordering::SeqCst) == AWAKE {
            std::thread::yield_now();
        }
        alarm.set(1, Some(Instant::now()));
        wait_for_alarm(&inboxes[1]);
        assert!(!inboxes[0].attention());
    }

    #[test]
    fn rearming_is_never_lost() {
        let (alarm, inboxes) = alarm(3);
        std::thread::scope(|scope| {
            for (vcpu, inbox) in inboxes.iter().enumerate() {
                let alarm = &alarm;
                scope.spawn(move || {
                    for round in 0..500 {
                        alarm.set(vcpu, Some(Instant::now() + Duration::from_micros(round % 7 * 20)));
                        wait_for_alarm(inbox);
                    }
                });
            }
        });
    }

    #[test]
    fn a_forgotten_deadline_is_silent_and_drop_ends_the_thread() {
        let (alarm, inboxes) = alarm(1);
        alarm.set(0, Some(Instant::now() + Duration::from_secs(3600)));
        alarm.set(0, None);
        assert_eq!(alarm.shared.earliest(), NEVER);
        let shared = Arc::downgrade(&alarm.shared);
        drop(alarm);
        assert!(shared.upgrade().is_none(), "the thread has let go of its share");
        assert!(!inboxes[0].attention());
    }
}
