//! Guest time.

use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Guest time: nanoseconds since the machine first ran. It stands still while the machine is paused.
pub trait Clock: Send + Sync {
    /// Now, in nanoseconds. Never less than an earlier answer.
    fn now(&self) -> u64;

    /// The time of day, since the Unix epoch.
    fn wall(&self) -> Duration;
}

/// A device's alarm. The machine calls the device back, on its own thread, once guest time has reached the
/// deadline.
pub trait Timer: Send + Sync {
    /// Sets the deadline, in nanoseconds of guest time, in place of an earlier one. One in the past is due now.
    fn arm(&self, deadline: u64);

    /// Forgets the deadline.
    fn disarm(&self);
}

/// Guest time from the host's monotonic clock.
#[derive(Debug)]
pub struct HostClock {
    state: Mutex<HostClockState>,
}

#[derive(Debug, Clone, Copy)]
struct HostClockState {
    /// Guest time at `since`.
    base: u64,
    /// When it started to run; `None` while it stands still.
    since: Option<Instant>,
}

impl HostClock {
    /// A clock that stands still at `now` nanoseconds.
    #[must_use]
    pub fn stopped_at(now: u64) -> Self {
        Self { state: Mutex::new(HostClockState { base: now, since: None }) }
    }

    /// Lets it run.
    pub fn start(&self) {
        let mut state = self.lock();
        if state.since.is_none() {
            state.since = Some(Instant::now());
        }
    }

    /// Makes it stand still.
    pub fn stop(&self) {
        let mut state = self.lock();
        state.base = state.now();
        state.since = None;
    }

    /// Moves it to `now` nanoseconds, standing still: a saved machine goes on where it was.
    pub fn set(&self, now: u64) {
        *self.lock() = HostClockState { base: now, since: None };
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HostClockState> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl HostClockState {
    fn now(&self) -> u64 {
        let elapsed = self.since.map_or(Duration::ZERO, |since| since.elapsed());
        self.base.saturating_add(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl Clock for HostClock {
    fn now(&self) -> u64 {
        self.lock().now()
    }

    fn wall(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

/// A clock that moves only when told to, for tests.
#[derive(Debug, Default)]
pub struct ManualClock {
    now: std::sync::atomic::AtomicU64,
}

impl ManualClock {
    /// Moves it on by `nanoseconds`.
    pub fn advance(&self, nanoseconds: u64) {
        self.now.fetch_add(nanoseconds, std::sync::atomic::Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> u64 {
        self.now.load(std::sync::atomic::Ordering::SeqCst)
    }

    fn wall(&self) -> Duration {
        Duration::from_nanos(self.now())
    }
}
