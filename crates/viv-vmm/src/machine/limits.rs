//! Limits on how much devices do: the timers by which what had to wait goes on.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use viv_devices::virtio::{Limits, Throttle};
use viv_engine::{Clock, Timer};

use super::reactor::Source;
use crate::error::MachineError;

/// A timer for these limits, if there are any.
pub(crate) fn timer(limits: Limits, clock: &Arc<dyn Clock>) -> Result<Option<Arc<LimitTimer>>, MachineError> {
    if limits == Limits::default() {
        return Ok(None);
    }
    let timer = LimitTimer::new(clock).map_err(MachineError::host("make a timerfd"))?;
    Ok(Some(Arc::new(timer)))
}

/// An alarm in guest time. While that stands still it may ring early, and the device sets it again.
pub(crate) struct LimitTimer {
    clock: Arc<dyn Clock>,
    timerfd: OwnedFd,
}

impl LimitTimer {
    fn new(clock: &Arc<dyn Clock>) -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timerfd = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self { clock: clock.clone(), timerfd })
    }

    /// The keeper of limits that sets this.
    pub(crate) fn throttle(self: &Arc<Self>, limits: Limits) -> Throttle {
        Throttle::new(limits, self.clock.clone(), self.clone())
    }

    /// What a thread for devices waits for, to `resume` the device then.
    pub(crate) fn source(self: Arc<Self>, resume: impl FnMut() + Send + 'static) -> Box<dyn Source> {
        Box::new(Due { timer: self, resume })
    }

    /// Rings in so many nanoseconds; 0 is never.
    fn set(&self, nanoseconds: u64) {
        let value = Timespec {
            tv_sec: i64::try_from(nanoseconds / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(nanoseconds % 1_000_000_000).unwrap_or(0),
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        // It cannot fail: the descriptor is a timerfd and the time is normalised.
        let _ = rustix::time::timerfd_settime(&self.timerfd, TimerfdTimerFlags::empty(), &once);
    }
}

impl Timer for LimitTimer {
    fn arm(&self, deadline: u64) {
        self.set(deadline.saturating_sub(self.clock.now()).max(1));
    }

    fn disarm(&self) {
        self.set(0);
    }
}

/// The time at which a device's limits let more through.
struct Due<F> {
    timer: Arc<LimitTimer>,
    resume: F,
}

impl<F: FnMut() + Send> Source for Due<F> {
    fn fd(&self) -> BorrowedFd<'_> {
        self.timer.timerfd.as_fd()
    }

    fn ready(&mut self) {
        let _ = rustix::io::read(&self.timer.timerfd, &mut [0; 8]);
        (self.resume)();
    }
}
