//! The high precision event timer: a main counter of 100 MHz and three comparators (IA-PC HPET specification
//! 1.0a).
//!
//! Each comparator is one-shot or periodic, has 64 or 32 bits, and interrupts by edge or by level. In legacy
//! replacement mode the first two take the place of PIT and RTC, whose lines go through a [`Gate`] that is
//! closed meanwhile.
//!
//! A comparator that is set behind the counter matches after a turn, as in hardware. Matches that come due
//! together become one, and the host is not called back more often than every 100 µs by a period, whatever the
//! guest programs.

mod comparator;
mod regs;
mod state;

use std::sync::Arc;

use viv_engine::{Clock, Timer};

use crate::device::{Device, DeviceError, MemoryIo, SavedState, TimerEvents};
use crate::irq::{Gate, IrqLine};
use crate::layout;
use crate::ticks::Frequency;

use comparator::Comparator;
use regs::{Configuration, Register, TimerConfiguration};
use state::HpetState;

/// The main counter's clock.
const CLOCK: Frequency = Frequency(100_000_000);
/// The shortest time between two calls of the timer for a period, in nanoseconds.
const SHORTEST_SLEEP: u64 = 100_000;
/// Which line a comparator has in legacy replacement mode.
const LEGACY_ROUTES: [u32; 2] = [layout::PIT_IRQ, layout::RTC_IRQ];

const NAME: &str = "hpet0";

/// An HPET.
pub struct Hpet {
    clock: Arc<dyn Clock>,
    timer: Arc<dyn Timer>,
    lines: Vec<IrqLine>,
    legacy: Arc<Gate>,
    configuration: Configuration,
    /// A bit for each comparator that asserts its line.
    status: u64,
    /// The main counter at tick `seen`.
    counter: u64,
    /// Up to which tick interrupts were made.
    seen: u64,
    comparators: [Comparator; regs::TIMERS],
    /// The guest time that the timer is armed for.
    armed: Option<u64>,
}

impl Hpet {
    /// What the ACPI table says about it, as its capability register does.
    pub const BLOCK_ID: u32 = regs::BLOCK_ID;

    /// An HPET after power-on. `line` makes sources of interrupt lines; the lines of PIT and RTC go through
    /// `legacy`.
    #[must_use]
    pub fn new(
        clock: Arc<dyn Clock>,
        timer: Arc<dyn Timer>,
        line: impl Fn(u32) -> IrqLine,
        legacy: Arc<Gate>,
    ) -> Self {
        let seen = CLOCK.ticks(clock.now());
        Self {
            clock,
            timer,
            lines: LEGACY_ROUTES.into_iter().chain(layout::HPET_ROUTES).map(line).collect(),
            legacy,
            configuration: Configuration::empty(),
            status: 0,
            counter: 0,
            seen,
            comparators: [const { Comparator::POWER_ON }; regs::TIMERS],
            armed: None,
        }
    }

    fn is_enabled(&self) -> bool {
        self.configuration.contains(Configuration::ENABLE)
    }

    fn replaces_legacy(&self) -> bool {
        self.configuration.contains(Configuration::ENABLE | Configuration::LEGACY_ROUTE)
    }

    /// Moves the counter on to now and makes the interrupts that are due. Says whether there was a match.
    fn catch_up(&mut self) -> bool {
        let now = CLOCK.ticks(self.clock.now());
        let elapsed = now.saturating_sub(self.seen);
        self.seen = now;
        if !self.is_enabled() {
            return false;
        }
        let mut matched = false;
        for index in 0..regs::TIMERS {
            let Some(comparator) = self.comparators.get_mut(index) else { continue };
            if !comparator.pass(self.counter, elapsed) {
                continue;
            }
            matched = true;
            let configuration = comparator.configuration();
            if configuration.contains(TimerConfiguration::LEVEL) {
                self.status |= status_bit(index);
            } else if configuration.contains(TimerConfiguration::INTERRUPT)
                && let Some(gsi) = self.route(index, configuration)
                && let Some(line) = self.lines.iter().find(|line| line.gsi() == gsi)
            {
                line.pulse();
            }
        }
        self.counter = self.counter.wrapping_add(elapsed);
        matched
    }

    /// The line of a comparator.
    fn route(&self, index: usize, configuration: TimerConfiguration) -> Option<u32> {
        let legacy = LEGACY_ROUTES.get(index).copied().filter(|_| self.replaces_legacy());
        legacy.or_else(|| configuration.route())
    }

    /// Whether a comparator asserts line `gsi` by level.
    fn asserts(&self, gsi: u32) -> bool {
        self.is_enabled()
            && self.comparators.iter().enumerate().any(|(index, comparator)| {
                let configuration = comparator.configuration();
                self.status & status_bit(index) != 0
                    && configuration.contains(TimerConfiguration::INTERRUPT)
                    && self.route(index, configuration) == Some(gsi)
            })
    }

    /// When the next interrupt is due, in guest time.
    fn deadline(&self) -> Option<u64> {
        if !self.is_enabled() {
            return None;
        }
        let soonest = self.clock.now().saturating_add(SHORTEST_SLEEP);
        let due = |(index, comparator): (usize, &Comparator)| {
            let interrupts = comparator.configuration().contains(TimerConfiguration::INTERRUPT);
            // One that asserts its line already has nothing to add.
            if !interrupts || self.status & status_bit(index) != 0 {
                return None;
            }
            let due = CLOCK.nanos(self.seen.saturating_add(comparator.distance(self.counter)?));
            Some(if comparator.is_periodic() { due.max(soonest) } else { due })
        };
        self.comparators.iter().enumerate().filter_map(due).min()
    }

    /// Brings lines, gate and alarm in step with the registers.
    fn settle(&mut self) {
        self.legacy.set_closed(self.replaces_legacy());
        for line in &self.lines {
            line.set(self.asserts(line.gsi()));
        }
        let deadline = self.deadline();
        if deadline == self.armed {
            return;
        }
        self.armed = deadline;
        match deadline {
            Some(deadline) => self.timer.arm(deadline),
            None => self.timer.disarm(),
        }
    }

    fn read_register(&self, register: Register) -> u64 {
        let comparator = |index: usize| self.comparators.get(index);
        match register {
            Register::Capabilities => regs::capabilities(),
            Register::Configuration => self.configuration.bits(),
            Register::Status => self.status,
            Register::Counter => self.counter,
            Register::TimerConfiguration(index) => comparator(index).map_or(0, |c| c.configuration().bits()),
            Register::Comparator(index) => comparator(index).map_or(0, Comparator::value),
            Register::Reserved => 0,
        }
    }

    /// Writes a register; `merge` puts what is written in place of a part of its old value.
    fn write_register(&mut self, register: Register, merge: impl Fn(u64) -> u64) {
        match register {
            Register::Configuration => {
                self.configuration = Configuration::from_bits_truncate(merge(self.configuration.bits()));
            }
            // Status bits are cleared by writing ones.
            Register::Status => self.status &= !merge(0),
            Register::Counter => self.counter = merge(self.counter),
            Register::TimerConfiguration(index) => {
                let Some(comparator) = self.comparators.get_mut(index) else { return };
                comparator.set_configuration(merge(comparator.configuration().bits()));
                if !comparator.configuration().contains(TimerConfiguration::LEVEL) {
                    self.status &= !status_bit(index);
                }
            }
            Register::Comparator(index) => {
                if let Some(comparator) = self.comparators.get_mut(index) {
                    comparator.write(merge);
                }
            }
            Register::Capabilities | Register::Reserved => {}
        }
    }
}

/// The bit of a comparator in the status register.
fn status_bit(index: usize) -> u64 {
    u32::try_from(index).ok().and_then(|index| 1_u64.checked_shl(index)).unwrap_or(0)
}

/// Registers have 64 bits and take accesses of every size. What goes beyond a register reads as zeros, and is
/// not written.
impl MemoryIo for Hpet {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        // Guests that tell the time by the counter read it very often: nothing more is done unless it matches.
        if self.catch_up() {
            self.settle();
        }
        let (register, at) = Register::at(offset);
        let value = self.read_register(register).to_le_bytes();
        let bytes = value.into_iter().skip(at).chain(std::iter::repeat(0));
        for (to, from) in data.iter_mut().zip(bytes) {
            *to = from;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.catch_up();
        let (register, at) = Register::at(offset);
        self.write_register(register, |old| {
            let mut bytes = old.to_le_bytes();
            for (to, from) in bytes.iter_mut().skip(at).zip(data) {
                *to = *from;
            }
            u64::from_le_bytes(bytes)
        });
        self.settle();
    }
}

impl TimerEvents for Hpet {
    fn on_timer(&mut self, _now: u64) {
        self.armed = None;
        self.catch_up();
        self.settle();
    }
}

impl Device for Hpet {
    fn name(&self) -> &str {
        NAME
    }

    fn memory_io(&mut self) -> Option<&mut dyn MemoryIo> {
        Some(self)
    }

    fn timer_events(&mut self) -> Option<&mut dyn TimerEvents> {
        Some(self)
    }

    fn reset(&mut self) {
        self.configuration = Configuration::empty();
        self.status = 0;
        self.counter = 0;
        self.seen = CLOCK.ticks(self.clock.now());
        self.comparators = [const { Comparator::POWER_ON }; regs::TIMERS];
        self.settle();
    }

    fn save(&self) -> Result<SavedState, DeviceError> {
        let state = HpetState {
            configuration: self.configuration.bits(),
            status: self.status,
            counter: self.counter,
            seen: self.seen,
            timers: self.comparators.each_ref().map(Comparator::save),
        };
        SavedState::encode(NAME, HpetState::VERSION, &state)
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        let state: HpetState = state.decode(HpetState::VERSION)?;
        self.configuration = Configuration::from_bits_truncate(state.configuration);
        self.status = state.status & regs::STATUS_BITS;
        self.counter = state.counter;
        self.seen = state.seen;
        self.comparators = state.timers.each_ref().map(Comparator::restore);
        self.armed = None;
        self.timer.disarm();
        self.settle();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
