//! One counter of the 8254.
//!
//! Nothing happens from tick to tick: OUT and the count are functions of the time since the count was loaded.

use super::regs::{Access, Mode, STATUS_NULL_COUNT, STATUS_OUT};
use super::state::{ChannelState, NextCount, Phase};

impl ChannelState {
    /// After power-on, with its gate as given.
    pub(super) fn new(gate: bool) -> Self {
        Self {
            mode: Mode::TerminalCount,
            access: Access::Both,
            bcd: false,
            gate,
            count: 0x1_0000,
            phase: Phase::Idle,
            next: None,
            low_written: None,
            reads_high: false,
            latched_count: None,
            latched_status: None,
        }
    }

    /// A control word sets its mode.
    pub(super) fn set_mode(&mut self, access: Access, mode: Mode, bcd: bool) {
        *self = Self { mode, access, bcd, count: self.count, ..Self::new(self.gate) };
    }

    /// Writes a byte of the count at tick `now`.
    pub(super) fn write(&mut self, value: u8, now: i64) {
        self.advance(now);
        let count = match (self.access, self.low_written.take()) {
            (Access::Low, _) => u16::from_le_bytes([value, 0]),
            (Access::High, _) => u16::from_le_bytes([0, value]),
            (Access::Both, Some(low)) => u16::from_le_bytes([low, value]),
            (Access::Both, None) => {
                self.low_written = Some(value);
                if self.mode == Mode::TerminalCount {
                    self.phase = Phase::Idle;
                }
                return;
            }
        };
        let count = match (count, self.bcd) {
            (0, _) => self.modulus(),
            (count, false) => count.into(),
            (count, true) => from_bcd(count),
        };
        self.set_count(count, now);
    }

    fn set_count(&mut self, count: u32, now: i64) {
        match self.phase {
            Phase::Counting { since } if self.mode.is_periodic() => {
                let at = Some(self.next_reload(since, now));
                self.next = Some(NextCount { count, at });
            }
            Phase::Held { .. } if self.mode.is_periodic() => self.next = Some(NextCount { count, at: None }),
            Phase::Counting { .. } if self.mode.is_triggered() => {
                self.next = Some(NextCount { count, at: None });
            }
            _ => {
                self.count = count;
                self.phase = if self.mode.is_triggered() {
                    Phase::Waiting
                } else if self.gate {
                    loaded(now)
                } else {
                    Phase::Held { elapsed: 0 }
                };
            }
        }
    }

    /// The gate is at `gate` from tick `now` on.
    pub(super) fn set_gate(&mut self, gate: bool, now: i64) {
        self.advance(now);
        if gate == self.gate {
            return;
        }
        self.gate = gate;
        self.phase = match (self.phase, gate) {
            (Phase::Idle, _) => Phase::Idle,
            (phase, false) if self.mode.is_triggered() => phase,
            (_, true) if self.mode.is_triggered() || self.mode.is_periodic() => {
                if let Some(next) = self.next.take() {
                    self.count = next.count;
                }
                loaded(now)
            }
            (Phase::Counting { since }, false) => {
                Phase::Held { elapsed: u32::try_from(now.saturating_sub(since).max(0)).unwrap_or(u32::MAX) }
            }
            (Phase::Held { elapsed }, true) => Phase::Counting { since: now.saturating_sub(elapsed.into()) },
            (phase, _) => phase,
        };
        if let (false, Some(next)) = (gate, &mut self.next) {
            next.at = None;
        }
    }

    /// Puts a count that was to take effect by tick `now` in effect.
    pub(super) fn advance(&mut self, now: i64) {
        let Some(NextCount { count, at: Some(at) }) = self.next else { return };
        if now < at {
            return;
        }
        // A square wave changes its count in mid-period too: then the low half begins.
        let mid_period = self.mode == Mode::SquareWave && !self.out(at);
        self.next = None;
        self.count = count;
        let into = if mid_period { high_half(count) } else { 0 };
        self.phase = Phase::Counting { since: at.saturating_sub(into.into()) };
    }

    /// OUT at tick `now`, which no earlier call was later than.
    pub(super) fn out(&self, now: i64) -> bool {
        let elapsed = self.elapsed(now);
        let count = u64::from(self.count);
        match (self.mode, self.phase) {
            (Mode::TerminalCount, Phase::Idle) => false,
            (_, Phase::Idle | Phase::Waiting)
            | (Mode::RateGenerator | Mode::SquareWave, Phase::Held { .. }) => true,
            (Mode::TerminalCount | Mode::OneShot, _) => elapsed >= count,
            (Mode::RateGenerator, _) => count < 2 || within(elapsed, count) != count.saturating_sub(1),
            (Mode::SquareWave, _) => count < 2 || within(elapsed, count) < high_half(self.count).into(),
            (Mode::SoftwareStrobe | Mode::HardwareStrobe, _) => elapsed != count,
        }
    }

    /// When OUT rises next after tick `after`, unless something is written before.
    pub(super) fn next_rise(&self, after: i64) -> Option<i64> {
        let Phase::Counting { since } = self.phase else { return None };
        let count = i64::from(self.count);
        let rise = match self.mode {
            Mode::TerminalCount | Mode::OneShot => since.saturating_add(count),
            Mode::SoftwareStrobe | Mode::HardwareStrobe => since.saturating_add(count).saturating_add(1),
            Mode::RateGenerator | Mode::SquareWave if count < 2 => return None,
            Mode::RateGenerator | Mode::SquareWave => self.period_end(since, after),
        };
        (rise > after).then_some(rise)
    }

    /// When a count that is written at tick `now` takes effect: at the end of the period, or of the half.
    fn next_reload(&self, since: i64, now: i64) -> i64 {
        let end = self.period_end(since, now);
        let low_half = self.count.saturating_sub(high_half(self.count));
        let middle = end.saturating_sub(low_half.into());
        if self.mode == Mode::SquareWave && now < middle { middle } else { end }
    }

    /// The end of the period that tick `now` lies in.
    fn period_end(&self, since: i64, now: i64) -> i64 {
        let count = u64::from(self.count);
        let periods = self.elapsed(now).checked_div(count).unwrap_or(0).saturating_add(1);
        since.saturating_add(i64::try_from(periods.saturating_mul(count)).unwrap_or(i64::MAX))
    }

    /// The count at tick `now`, as it is read.
    fn counter(&self, now: i64) -> u16 {
        let elapsed = self.elapsed(now);
        let (count, modulus) = (u64::from(self.count), u64::from(self.modulus()));
        let value = match self.mode {
            Mode::RateGenerator => count.saturating_sub(within(elapsed, count)),
            Mode::SquareWave => {
                let high = u64::from(high_half(self.count));
                let position = within(elapsed, count);
                let clocks = position.checked_sub(high).unwrap_or(position);
                (count & !1).saturating_sub(clocks.saturating_mul(2))
            }
            _ => count.saturating_add(modulus).saturating_sub(within(elapsed, modulus)),
        };
        let value = u16::try_from(within(value, modulus)).unwrap_or(0);
        if self.bcd { to_bcd(value) } else { value }
    }

    /// Latches the count, unless one is latched.
    pub(super) fn latch_count(&mut self, now: i64) {
        self.advance(now);
        if self.latched_count.is_none() {
            self.latched_count = Some(self.counter(now));
        }
    }

    /// Latches the status, unless one is latched.
    pub(super) fn latch_status(&mut self, now: i64) {
        self.advance(now);
        if self.latched_status.is_some() {
            return;
        }
        let loaded = match self.phase {
            Phase::Idle | Phase::Waiting => false,
            Phase::Counting { since } => self.next.is_none() && now >= since,
            Phase::Held { .. } => self.next.is_none(),
        };
        let mut status = (self.access.bits() << 4) | (self.mode.bits() << 1) | u8::from(self.bcd);
        if self.out(now) {
            status |= STATUS_OUT;
        }
        if !loaded {
            status |= STATUS_NULL_COUNT;
        }
        self.latched_status = Some(status);
    }

    /// Reads a byte: of the status if latched, else of the count.
    pub(super) fn read(&mut self, now: i64) -> u8 {
        self.advance(now);
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let [low, high] = self.latched_count.unwrap_or_else(|| self.counter(now)).to_le_bytes();
        let (value, last) = match self.access {
            Access::Low => (low, true),
            Access::High => (high, true),
            Access::Both => {
                self.reads_high = !self.reads_high;
                if self.reads_high { (low, false) } else { (high, true) }
            }
        };
        if last {
            self.latched_count = None;
        }
        value
    }

    fn elapsed(&self, now: i64) -> u64 {
        match self.phase {
            Phase::Idle | Phase::Waiting => 0,
            Phase::Counting { since } => u64::try_from(now.saturating_sub(since)).unwrap_or(0),
            Phase::Held { elapsed } => elapsed.into(),
        }
    }

    /// How many values the counter has.
    fn modulus(&self) -> u32 {
        if self.bcd { 10_000 } else { 0x1_0000 }
    }
}

/// Counting from the next clock on, as a count is loaded at the clock after it was written.
fn loaded(now: i64) -> Phase {
    Phase::Counting { since: now.saturating_add(1) }
}

/// For how many clocks of its period a square wave is high.
fn high_half(count: u32) -> u32 {
    count.div_ceil(2)
}

/// The remainder of `value` by `period`.
fn within(value: u64, period: u64) -> u64 {
    value.checked_rem(period).unwrap_or(0)
}

fn from_bcd(value: u16) -> u32 {
    [12, 8, 4, 0].into_iter().fold(0, |sum: u32, shift| {
        sum.saturating_mul(10).saturating_add(u32::from(value.wrapping_shr(shift) & 0xf))
    })
}

fn to_bcd(value: u16) -> u16 {
    let digit = |divisor: u16| value.checked_div(divisor).unwrap_or(0) % 10;
    (digit(1000) << 12) | (digit(100) << 8) | (digit(10) << 4) | digit(1)
}
