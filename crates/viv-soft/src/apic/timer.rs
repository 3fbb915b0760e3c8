//! The timer (SDM vol. 3, 11.5.4).
//!
//! Nothing counts: what is kept is when the count began, and everything else follows from the guest's TSC at the
//! time of asking. The input clock is 1 GHz, one tick a nanosecond, before the divider.

/// Input clock ticks in a millisecond.
const INPUT_KHZ: u128 = 1_000_000;

/// The least period of the periodic mode, in input clock ticks: 100 µs. A shorter one would leave a vCPU, and the
/// thread that wakes it, no time for anything else. The current count never shows more than the initial count.
const MIN_PERIOD: u64 = 100_000;

/// Timer modes, as in bits 17 and 18 of the LVT entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    OneShot,
    Periodic,
    TscDeadline,
    /// Never fires.
    Reserved,
}

/// A count that runs down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    /// Guest TSC at its start.
    since: u64,
    /// The count at its start, not 0.
    count: u32,
    /// In periodic mode, how many times it has fired.
    fired: u64,
}

/// The timer of one local APIC. All times are in ticks of the guest's TSC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Timer {
    tsc_khz: u32,
    mode: Mode,
    divide: u32,
    initial: u32,
    run: Option<Run>,
    /// IA32_TSC_DEADLINE; 0 is disarmed.
    deadline: u64,
}

impl Timer {
    pub(super) const fn new(tsc_khz: u32) -> Self {
        let tsc_khz = if tsc_khz == 0 { 1 } else { tsc_khz };
        Self { tsc_khz, mode: Mode::OneShot, divide: 0, initial: 0, run: None, deadline: 0 }
    }

    /// As after power-on.
    pub(super) const fn reset(&mut self) {
        *self = Self::new(self.tsc_khz);
    }

    pub(super) const fn initial(&self) -> u32 {
        self.initial
    }

    pub(super) const fn divide(&self) -> u32 {
        self.divide
    }

    pub(super) const fn deadline(&self) -> u64 {
        self.deadline
    }

    /// Whether what was due by `now` includes an interrupt. To be called before anything is changed, so that what
    /// was due before the change is not judged by what holds after.
    #[must_use]
    pub(super) fn tick(&mut self, now: u64) -> bool {
        if self.mode == Mode::TscDeadline {
            let due = self.deadline != 0 && now >= self.deadline;
            if due {
                self.deadline = 0;
            }
            return due;
        }
        let Some(mut run) = self.run else { return false };
        let elapsed = self.counts(run.since, now);
        if elapsed < self.target(run) {
            return false;
        }
        if self.mode == Mode::Periodic {
            // However many periods have passed, that is one interrupt: the guest could not have told them apart.
            let since_first = (elapsed - u128::from(run.count)) / u128::from(self.period());
            run.fired = (since_first + 1) as u64;
            self.run = Some(run);
        } else {
            self.run = None;
        }
        self.mode != Mode::Reserved
    }

    /// When [`Timer::tick`] will next have something to say.
    pub(super) fn next(&self) -> Option<u64> {
        match self.mode {
            Mode::OneShot | Mode::Periodic => {
                let run = self.run?;
                let input = self.target(run) * u128::from(self.divisor());
                let ticks = (input * u128::from(self.tsc_khz)).div_ceil(INPUT_KHZ);
                Some(run.since.wrapping_add(ticks as u64))
            }
            Mode::TscDeadline => (self.deadline != 0).then_some(self.deadline),
            Mode::Reserved => None,
        }
    }

    /// The current-count register.
    pub(super) fn current(&self, now: u64) -> u32 {
        let Some(run) = self.run else { return 0 };
        let elapsed = self.counts(run.since, now);
        let count = u128::from(run.count);
        let left = if elapsed < count {
            count - elapsed
        } else if self.mode == Mode::Periodic {
            let period = u128::from(self.period());
            period - (elapsed - count) % period
        } else {
            0
        };
        left.min(u128::from(self.initial)) as u32
    }

    /// Writes the initial-count register, which starts the count; 0 stops it. Without effect in TSC-deadline mode.
    pub(super) fn set_initial(&mut self, value: u32, now: u64) {
        if self.mode != Mode::TscDeadline {
            self.resume(value, value, now);
        }
    }

    /// Goes on with `initial` from the current count `count`; 0 stops it.
    pub(super) fn resume(&mut self, initial: u32, count: u32, now: u64) {
        self.initial = initial;
        let count =
            if self.mode == Mode::Periodic && count == initial { self.period() as u32 } else { count };
        self.run = (count != 0 && initial != 0).then_some(Run { since: now, count, fired: 0 });
    }

    /// Writes the divide-configuration register. The count goes on from where it is.
    pub(super) fn set_divide(&mut self, value: u32, now: u64) {
        let count = self.current(now);
        self.divide = value & 0b1011;
        self.recount(count, now);
    }

    /// Sets the mode, from bits 17 and 18 of the LVT entry. A change to or from TSC-deadline mode disarms the
    /// timer (SDM vol. 3, 11.5.4.1).
    pub(super) fn set_mode(&mut self, bits: u32, now: u64) {
        let mode = match bits & 3 {
            0 => Mode::OneShot,
            1 => Mode::Periodic,
            2 => Mode::TscDeadline,
            _ => Mode::Reserved,
        };
        if mode == self.mode {
            return;
        }
        let count = self.current(now);
        if mode == Mode::TscDeadline || self.mode == Mode::TscDeadline {
            self.initial = 0;
            self.run = None;
            self.deadline = 0;
        }
        self.mode = mode;
        self.recount(count, now);
    }

    /// Writes IA32_TSC_DEADLINE; 0 disarms. Without effect in other modes.
    pub(super) fn set_deadline(&mut self, value: u64) {
        if self.mode == Mode::TscDeadline {
            self.deadline = value;
        }
    }

    /// The guest's TSC has been moved by `delta`. A running count does not depend on it; IA32_TSC_DEADLINE does.
    pub(super) fn adjust_tsc(&mut self, delta: i64) {
        if let Some(run) = &mut self.run {
            run.since = run.since.wrapping_add_signed(delta);
        }
    }

    /// A running count starts anew from `count`.
    fn recount(&mut self, count: u32, now: u64) {
        if self.run.is_some() {
            self.run = (count != 0).then_some(Run { since: now, count, fired: 0 });
        }
    }

    /// After how many counts a run fires next.
    fn target(&self, run: Run) -> u128 {
        u128::from(run.count) + u128::from(run.fired) * u128::from(self.period())
    }

    /// Counts from one interrupt to the next in periodic mode; not 0.
    fn period(&self) -> u64 {
        u64::from(self.initial).max(MIN_PERIOD.div_ceil(self.divisor()))
    }

    /// What the divide-configuration register stands for: 0b000 is 2, 0b110 is 128, 0b111 is 1.
    const fn divisor(&self) -> u64 {
        let code = (self.divide & 3) | ((self.divide >> 1) & 4);
        1 << ((code + 1) & 7)
    }

    /// Counts, divided, between two values of the TSC; 0 if `now` is before.
    fn counts(&self, since: u64, now: u64) -> u128 {
        let ticks = now.wrapping_sub(since).cast_signed().max(0);
        let scale = u128::from(self.tsc_khz) * u128::from(self.divisor());
        u128::from(ticks.cast_unsigned()) * INPUT_KHZ / scale
    }
}
