//! The real-time clock: an MC146818 with 128 bytes of CMOS RAM.
//!
//! Time is the host's time of day plus an offset, which moves when the guest sets the time. It is
//! battery-backed: like the RAM, it survives a reset.
//!
//! Updates, alarms and periodic ticks are noticed when the guest looks or when an interrupt is due; those that
//! come due together become one.

mod calendar;
mod ram;
mod regs;
mod state;

use std::sync::Arc;

use viv_engine::{Clock, Timer};

use crate::bus::PortRange;
use crate::device::{Device, DeviceError, PortIo, SavedState, TimerEvents};
use crate::irq::IrqLine;
use crate::layout;
use crate::portio::{read_bytes, write_bytes};
use crate::ticks::Frequency;

use calendar::DateTime;
use ram::Ram;
use regs::{Control, Flags};
use state::RtcState;

const NANOS_PER_SECOND: i128 = 1_000_000_000;
/// How long before an update it is announced, in nanoseconds.
const UPDATE_NOTICE: i128 = 244_000;
/// How long after the divider was let go the first update comes, in nanoseconds.
const FIRST_UPDATE: i128 = 500_000_000;
/// The time base.
const CRYSTAL: Frequency = Frequency(32_768);

const NAME: &str = "rtc0";

/// How much RAM the machine has, for the bytes that tell firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemorySize {
    /// Bytes below 4 GiB.
    pub below_4_gib: u64,
    /// Bytes from 4 GiB on.
    pub above_4_gib: u64,
}

/// An MC146818.
pub struct Rtc {
    clock: Arc<dyn Clock>,
    timer: Arc<dyn Timer>,
    line: IrqLine,
    index: u8,
    ram: Ram,
    /// What is added to the host's time of day, in nanoseconds.
    offset: i128,
    /// The last second that had its update.
    updated: i64,
    /// Up to which tick of the time base periodic interrupts were made.
    periodic_seen: u64,
}

impl Rtc {
    /// Its ports.
    pub const PORTS: [PortRange; 1] = [PortRange::new(layout::RTC_INDEX, 2)];

    /// A clock that shows the host's time of day in UTC. `line` is [`layout::RTC_IRQ`].
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, timer: Arc<dyn Timer>, line: IrqLine, memory: MemorySize) -> Self {
        let mut rtc = Self {
            clock,
            timer,
            line,
            index: 0,
            ram: initial_ram(memory),
            offset: 0,
            updated: 0,
            periodic_seen: 0,
        };
        rtc.forget_the_past();
        rtc
    }

    /// The time shown, in nanoseconds since the Unix epoch.
    fn now(&self) -> i128 {
        i128::try_from(self.clock.wall().as_nanos()).unwrap_or(i128::MAX).saturating_add(self.offset)
    }

    /// Whether time stands still, because the guest sets it.
    fn is_held(&self) -> bool {
        self.ram.control().contains(Control::SET) || self.divider_in_reset()
    }

    fn divider_in_reset(&self) -> bool {
        regs::divider_in_reset(self.ram.get(regs::A))
    }

    fn flags(&self) -> Flags {
        Flags::from_bits_retain(self.ram.get(regs::C))
    }

    /// The flags whose interrupts are enabled.
    fn enabled(&self) -> Flags {
        let enabled = Flags::from_bits_truncate(self.ram.get(regs::B));
        enabled & (Flags::UPDATE | Flags::ALARM | Flags::PERIODIC)
    }

    /// Raises the flags of what has happened since the last call.
    fn catch_up(&mut self) {
        let mut flags = self.flags();
        if !self.is_held() {
            let second = second_of(self.now());
            let passed = second.saturating_sub(self.updated);
            if passed > 0 {
                flags |= Flags::UPDATE;
                let due = self.ram.seconds_to_alarm(second_of_day(self.updated));
                flags.set(
                    Flags::ALARM,
                    flags.contains(Flags::ALARM) || due.is_some_and(|due| i64::from(due) <= passed),
                );
            }
            // Also when the host's clock was set back.
            self.updated = second;
        }
        let tick = CRYSTAL.ticks(self.clock.now());
        if let Some(period) = self.period()
            && tick.checked_div(period) != self.periodic_seen.checked_div(period)
        {
            flags |= Flags::PERIODIC;
        }
        self.periodic_seen = tick;
        self.ram.set(regs::C, flags.bits());
    }

    /// What happened up to now raises no flag.
    fn forget_the_past(&mut self) {
        self.updated = second_of(self.now());
        self.periodic_seen = CRYSTAL.ticks(self.clock.now());
    }

    /// The period of the periodic interrupt in ticks of the time base, if it runs.
    fn period(&self) -> Option<u64> {
        regs::periodic_ticks(self.ram.get(regs::A)).filter(|_| !self.divider_in_reset())
    }

    /// Brings the line and the alarm in step with the registers.
    fn settle(&mut self) {
        let mut flags = self.flags().difference(Flags::INTERRUPT);
        let enabled = self.enabled();
        flags.set(Flags::INTERRUPT, flags.intersects(enabled));
        self.ram.set(regs::C, flags.bits());
        self.line.set(flags.contains(Flags::INTERRUPT));

        // A flag that is up already needs no alarm before the guest has read it.
        let awaited = enabled.difference(flags);
        let mut deadline = None;
        if awaited.contains(Flags::PERIODIC)
            && let Some(period) = self.period()
        {
            let next = CRYSTAL.ticks(self.clock.now()).checked_div(period).unwrap_or(0).saturating_add(1);
            deadline = Some(CRYSTAL.nanos(next.saturating_mul(period)));
        }
        if !self.is_held() {
            if awaited.contains(Flags::UPDATE) {
                deadline = earlier(deadline, self.second_from_now(1));
            }
            if awaited.contains(Flags::ALARM)
                && let Some(due) = self.ram.seconds_to_alarm(second_of_day(self.updated))
            {
                deadline = earlier(deadline, self.second_from_now(due));
            }
        }
        match deadline {
            Some(deadline) => self.timer.arm(deadline),
            None => self.timer.disarm(),
        }
    }

    /// The guest time at which the `count`th second from now begins.
    fn second_from_now(&self, count: u32) -> u64 {
        let passed = self.now().rem_euclid(NANOS_PER_SECOND);
        let wait = i128::from(count).saturating_mul(NANOS_PER_SECOND).saturating_sub(passed);
        self.clock.now().saturating_add(u64::try_from(wait).unwrap_or(0))
    }

    /// Brings the time registers up to date, unless the guest is setting them.
    fn show_time(&mut self) {
        if !self.is_held() {
            self.ram.set_time(DateTime::from_unix(second_of(self.now())));
        }
    }

    /// Makes the time registers the time, `nanos` into the second.
    fn take_time(&mut self, nanos: i128) {
        let second = i128::from(self.ram.time().to_unix());
        let time = second.saturating_mul(NANOS_PER_SECOND).saturating_add(nanos);
        self.offset = time.saturating_sub(self.now().saturating_sub(self.offset));
        self.updated = second_of(self.now());
    }

    fn nanos_into_second(&self) -> i128 {
        self.now().rem_euclid(NANOS_PER_SECOND)
    }

    fn read_data(&mut self) -> u8 {
        self.show_time();
        let value = self.ram.get(self.index);
        match self.index {
            regs::A => {
                let soon = self.nanos_into_second() >= NANOS_PER_SECOND.saturating_sub(UPDATE_NOTICE);
                if soon && !self.is_held() { value | regs::A_UPDATE_IN_PROGRESS } else { value }
            }
            regs::C => {
                self.ram.set(regs::C, 0);
                value
            }
            regs::D => regs::D_VALID,
            _ => value,
        }
    }

    fn write_data(&mut self, value: u8) {
        match self.index {
            regs::A => {
                self.show_time();
                let was_held = self.is_held();
                self.ram.set(regs::A, value & !regs::A_UPDATE_IN_PROGRESS);
                if was_held && !self.is_held() {
                    self.take_time(FIRST_UPDATE);
                }
            }
            regs::B => {
                self.show_time();
                let was_held = self.is_held();
                let mut control = Control::from_bits_retain(value);
                if control.contains(Control::SET) {
                    control.remove(Control::UPDATE_INTERRUPT);
                }
                self.ram.set(regs::B, control.bits());
                if was_held && !self.is_held() {
                    self.take_time(self.nanos_into_second());
                }
            }
            regs::C | regs::D => {}
            regs::SECONDS
            | regs::MINUTES
            | regs::HOURS
            | regs::DAY_OF_MONTH
            | regs::MONTH
            | regs::YEAR
            | regs::CENTURY => {
                self.show_time();
                self.ram.set(self.index, value);
                if !self.is_held() {
                    self.take_time(self.nanos_into_second());
                }
            }
            index => self.ram.set(index, value),
        }
    }
}

fn initial_ram(memory: MemorySize) -> Ram {
    let mut ram = Ram::zeroed();
    ram.set(regs::A, regs::A_POWER_ON);
    ram.set(regs::B, Control::HOURS_24.bits());
    let word = |value: u64| u16::try_from(value).unwrap_or(u16::MAX).to_le_bytes();
    let extended = word(memory.below_4_gib.saturating_sub(1 << 20) >> 10);
    ram.set_all(regs::BASE_MEMORY, &word(640));
    ram.set_all(regs::EXTENDED_MEMORY, &extended);
    ram.set_all(regs::EXTENDED_MEMORY_FOUND, &extended);
    ram.set_all(regs::MEMORY_ABOVE_16_MIB, &word(memory.below_4_gib.saturating_sub(16 << 20) >> 16));
    let [low, middle, high, ..] = (memory.above_4_gib >> 16).min(0xff_ffff).to_le_bytes();
    ram.set_all(regs::MEMORY_ABOVE_4_GIB, &[low, middle, high]);
    ram
}

fn second_of(nanos: i128) -> i64 {
    i64::try_from(nanos.div_euclid(NANOS_PER_SECOND)).unwrap_or(i64::MAX)
}

fn second_of_day(second: i64) -> u32 {
    u32::try_from(second.rem_euclid(86_400)).unwrap_or(0)
}

fn earlier(deadline: Option<u64>, other: u64) -> Option<u64> {
    Some(deadline.map_or(other, |deadline| deadline.min(other)))
}

impl PortIo for Rtc {
    fn read(&mut self, port: u16, data: &mut [u8]) {
        self.catch_up();
        self.settle();
        read_bytes(port, data, |port| match port {
            layout::RTC_DATA => self.read_data(),
            _ => 0xff,
        });
        self.settle();
    }

    fn write(&mut self, port: u16, data: &[u8]) {
        self.catch_up();
        write_bytes(port, data, |port, value| match port {
            // Bit 7 masks NMI on a real board.
            layout::RTC_INDEX => self.index = value & 0x7f,
            layout::RTC_DATA => self.write_data(value),
            _ => {}
        });
        self.settle();
    }
}

impl TimerEvents for Rtc {
    fn on_timer(&mut self, _now: u64) {
        self.catch_up();
        self.settle();
    }
}

impl Device for Rtc {
    fn name(&self) -> &str {
        NAME
    }

    fn port_io(&mut self) -> Option<&mut dyn PortIo> {
        Some(self)
    }

    fn timer_events(&mut self) -> Option<&mut dyn TimerEvents> {
        Some(self)
    }

    fn reset(&mut self) {
        self.index = 0;
        let control = self.ram.control().difference(Control::CLEARED_BY_RESET);
        self.ram.set(regs::B, control.bits());
        self.catch_up();
        self.ram.set(regs::C, 0);
        self.settle();
    }

    fn save(&self) -> Result<SavedState, DeviceError> {
        let state = RtcState {
            index: self.index,
            ram: self.ram.as_slice().to_vec(),
            offset: self.offset,
            updated: self.updated,
            periodic_seen: self.periodic_seen,
        };
        SavedState::encode(NAME, RtcState::VERSION, &state)
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        let state: RtcState = state.decode(RtcState::VERSION)?;
        self.ram = Ram::from_slice(&state.ram).ok_or_else(|| DeviceError::Invalid {
            name: NAME.to_owned(),
            reason: format!("CMOS RAM has {} bytes in place of {}", state.ram.len(), ram::SIZE),
        })?;
        self.index = state.index & 0x7f;
        self.offset = state.offset;
        self.updated = state.updated;
        self.periodic_seen = state.periodic_seen;
        self.settle();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
