//! The devices' timers, on one timerfd.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use viv_devices::bus::lock;
use viv_devices::{Device, SharedDevice};
use viv_engine::{Clock, Timer};

use super::reactor::Source;

/// All timers of a machine. The device thread waits for its descriptor and calls [`Timers::run_due`].
///
/// Locks: a device's lock is taken before this one's, since devices arm timers under theirs.
pub(crate) struct Timers {
    clock: Arc<dyn Clock>,
    timerfd: OwnedFd,
    entries: Mutex<Vec<Entry>>,
}

#[derive(Default)]
struct Entry {
    deadline: Option<u64>,
    device: Option<Weak<Mutex<dyn Device>>>,
}

/// One timer, as its device holds it.
struct DeviceTimer {
    timers: Arc<Timers>,
    index: usize,
}

impl Timers {
    /// No timers yet, on `clock`.
    pub(crate) fn new(clock: Arc<dyn Clock>) -> io::Result<Arc<Self>> {
        let timerfd = rustix::time::timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )?;
        Ok(Arc::new(Self { clock, timerfd, entries: Mutex::default() }))
    }

    /// Makes a timer for a device that `make` builds with it, and calls that device back when it is due.
    pub(crate) fn attach<D: Device + 'static>(
        self: &Arc<Self>,
        make: impl FnOnce(Arc<dyn Timer>) -> D,
    ) -> Arc<Mutex<D>> {
        let index = {
            let mut entries = self.lock();
            entries.push(Entry::default());
            entries.len() - 1
        };
        let timer = Arc::new(DeviceTimer { timers: Arc::clone(self), index });
        let device = Arc::new(Mutex::new(make(timer)));
        if let Some(entry) = self.lock().get_mut(index) {
            let shared: SharedDevice = device.clone();
            entry.device = Some(Arc::downgrade(&shared));
        }
        device
    }

    /// Calls every device whose deadline guest time has reached.
    pub(crate) fn run_due(&self) {
        // Cleared first: a deadline that passes from here on makes it readable again.
        let _ = rustix::io::read(&self.timerfd, &mut [0; 8]);
        let now = self.clock.now();
        let due: Vec<(usize, SharedDevice)> = self
            .lock()
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.deadline.is_some_and(|deadline| deadline <= now))
            .filter_map(|(index, entry)| Some((index, entry.device.as_ref()?.upgrade()?)))
            .collect();
        for (index, device) in due {
            let mut device = lock(&device);
            // Under the device's lock it is known whether it was armed anew in the meantime.
            if !self.take_due(index, now) {
                continue;
            }
            if let Some(events) = device.timer_events() {
                events.on_timer(now);
            }
        }
        self.program(&self.lock());
    }

    /// Makes the descriptor follow guest time again, after the clock was started.
    pub(crate) fn clock_started(&self) {
        self.program(&self.lock());
    }

    fn take_due(&self, index: usize, now: u64) -> bool {
        self.lock().get_mut(index).is_some_and(|entry| {
            let due = entry.deadline.is_some_and(|deadline| deadline <= now);
            if due {
                entry.deadline = None;
            }
            due
        })
    }

    fn set(&self, index: usize, deadline: Option<u64>) {
        let mut entries = self.lock();
        let before = earliest(&entries);
        if let Some(entry) = entries.get_mut(index) {
            entry.deadline = deadline;
        }
        if earliest(&entries) != before {
            self.program(&entries);
        }
    }

    /// Sets the timerfd to the earliest deadline. While guest time stands still it may fire early; nothing is
    /// due then, and [`Timers::run_due`] sets it again.
    fn program(&self, entries: &[Entry]) {
        // A zero disarms; a deadline that has passed must fire.
        let nanoseconds =
            earliest(entries).map_or(0, |deadline| deadline.saturating_sub(self.clock.now()).max(1));
        let value = Timespec {
            tv_sec: i64::try_from(nanoseconds / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(nanoseconds % 1_000_000_000).unwrap_or(0),
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        // It cannot fail: the descriptor is a timerfd and the time is normalised.
        let _ = rustix::time::timerfd_settime(&self.timerfd, TimerfdTimerFlags::empty(), &once);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn earliest(entries: &[Entry]) -> Option<u64> {
    entries.iter().filter_map(|entry| entry.deadline).min()
}

impl Timer for DeviceTimer {
    fn arm(&self, deadline: u64) {
        self.timers.set(self.index, Some(deadline));
    }

    fn disarm(&self) {
        self.timers.set(self.index, None);
    }
}

impl AsFd for Timers {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timerfd.as_fd()
    }
}

/// The timers as a source of events.
pub(crate) struct TimerSource(pub(crate) Arc<Timers>);

impl Source for TimerSource {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn ready(&mut self) {
        self.0.run_due();
    }
}
