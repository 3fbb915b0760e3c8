//! The timer: an 8254 with three counters, and port 0x61.
//!
//! Counter 0 makes the timer interrupt, counter 1 does nothing (it refreshed memory), counter 2 has its gate
//! and its output at port 0x61, where guests calibrate their clocks by it.
//!
//! Interrupts that come due together, because the guest or the host was late, become one: time that was
//! missed is never made up by a burst. For the same reason the host is not called back more often than every
//! 100 µs, whatever the guest programs.

mod channel;
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

use regs::{ControlWord, PortB};
use state::{ChannelState, PitState};

/// The 8254's clock.
const CLOCK: Frequency = Frequency(1_193_182);
/// Memory refresh, which port 0x61 shows, comes every 18 ticks.
const REFRESH_TICKS: i64 = 18;
/// The shortest time between two calls of the timer, in nanoseconds.
const SHORTEST_SLEEP: u64 = 100_000;
/// The control port.
const CONTROL: u16 = layout::PIT + 3;

const NAME: &str = "pit0";

/// An 8254.
pub struct Pit {
    clock: Arc<dyn Clock>,
    timer: Arc<dyn Timer>,
    line: IrqLine,
    channels: [ChannelState; 3],
    port_b: PortB,
    /// Up to which tick counter 0 has made its interrupts.
    seen: i64,
    /// The tick that the timer is armed for.
    armed: Option<i64>,
}

impl Pit {
    /// Its ports.
    pub const PORTS: [PortRange; 2] = [PortRange::new(layout::PIT, 4), PortRange::new(layout::PORT_B, 1)];

    /// An 8254 after power-on. `line` is what counter 0 drives, [`layout::PIT_IRQ`].
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, timer: Arc<dyn Timer>, line: IrqLine) -> Self {
        Self { clock, timer, line, channels: power_on(), port_b: PortB::empty(), seen: 0, armed: None }
    }

    fn tick(&self) -> i64 {
        i64::try_from(CLOCK.ticks(self.clock.now())).unwrap_or(i64::MAX)
    }

    /// Makes the interrupts that counter 0 owes up to tick `now`.
    fn catch_up(&mut self, now: i64) {
        let [timer, ..] = &mut self.channels;
        // A count that took over on the way splits the time in two.
        let switch = timer.next.and_then(|next| next.at).filter(|&at| at <= now);
        let mut rose = false;
        if let Some(at) = switch {
            rose = timer.next_rise(self.seen).is_some_and(|rise| rise <= at);
            timer.advance(now);
            self.seen = at;
        }
        rose |= timer.next_rise(self.seen).is_some_and(|rise| rise <= now);
        self.seen = self.seen.max(now);
        if rose {
            self.line.set(false);
            self.line.set(true);
        }
        self.line.set(timer.out(now));
    }

    /// Brings line and alarm in step with counter 0, after a change at tick `now`.
    fn settle(&mut self, now: i64) {
        let [timer, ..] = &self.channels;
        self.line.set(timer.out(now));
        let switch = timer.next.and_then(|next| next.at);
        let next = timer.next_rise(now).into_iter().chain(switch).min();
        if next == self.armed {
            return;
        }
        self.armed = next;
        match next {
            None => self.timer.disarm(),
            Some(next) => {
                let soonest = self.clock.now().saturating_add(SHORTEST_SLEEP);
                self.timer.arm(CLOCK.nanos(u64::try_from(next).unwrap_or(0)).max(soonest));
            }
        }
    }

    fn read_port(&mut self, port: u16, now: i64) -> u8 {
        match port {
            layout::PORT_B => {
                let [.., speaker] = &mut self.channels;
                speaker.advance(now);
                let mut value = self.port_b;
                value.set(PortB::OUT2, speaker.out(now));
                value.set(PortB::REFRESH, (now / REFRESH_TICKS) & 1 != 0);
                value.bits()
            }
            CONTROL => 0xff,
            _ => self.channel(port).map_or(0xff, |channel| channel.read(now)),
        }
    }

    fn write_port(&mut self, port: u16, value: u8, now: i64) {
        match port {
            layout::PORT_B => {
                self.port_b = PortB::from_bits_truncate(value) & PortB::WRITABLE;
                let [.., speaker] = &mut self.channels;
                speaker.set_gate(self.port_b.contains(PortB::GATE2), now);
            }
            CONTROL => self.control(ControlWord::from_bits(value), now),
            _ => {
                if let Some(channel) = self.channel(port) {
                    channel.write(value, now);
                }
            }
        }
    }

    fn control(&mut self, word: ControlWord, now: i64) {
        match word {
            ControlWord::Mode { channel, access, mode, bcd } => {
                if let Some(channel) = self.channels.get_mut(channel) {
                    channel.set_mode(access, mode, bcd);
                }
            }
            ControlWord::LatchCount { channel } => {
                if let Some(channel) = self.channels.get_mut(channel) {
                    channel.latch_count(now);
                }
            }
            ControlWord::ReadBack { channels, count, status } => {
                for (channel, _) in self.channels.iter_mut().zip(channels).filter(|(_, chosen)| *chosen) {
                    if count {
                        channel.latch_count(now);
                    }
                    if status {
                        channel.latch_status(now);
                    }
                }
            }
        }
    }

    fn channel(&mut self, port: u16) -> Option<&mut ChannelState> {
        self.channels.get_mut(usize::from(port.checked_sub(layout::PIT)?))
    }
}

/// The gates of counters 0 and 1 are tied high; that of counter 2 is low until port 0x61 raises it.
fn power_on() -> [ChannelState; 3] {
    [true, true, false].map(ChannelState::new)
}

impl PortIo for Pit {
    fn read(&mut self, port: u16, data: &mut [u8]) {
        let now = self.tick();
        self.catch_up(now);
        read_bytes(port, data, |port| self.read_port(port, now));
        self.settle(now);
    }

    fn write(&mut self, port: u16, data: &[u8]) {
        let now = self.tick();
        self.catch_up(now);
        write_bytes(port, data, |port, value| self.write_port(port, value, now));
        self.settle(now);
    }
}

impl TimerEvents for Pit {
    fn on_timer(&mut self, _now: u64) {
        let now = self.tick();
        self.armed = None;
        self.catch_up(now);
        self.settle(now);
    }
}

impl Device for Pit {
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
        self.channels = power_on();
        self.port_b = PortB::empty();
        self.seen = 0;
        self.armed = None;
        self.timer.disarm();
        self.line.set(false);
    }

    fn save(&self) -> Result<SavedState, DeviceError> {
        let state = PitState { channels: self.channels.clone(), port_b: self.port_b.bits(), seen: self.seen };
        SavedState::encode(NAME, PitState::VERSION, &state)
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        let state: PitState = state.decode(PitState::VERSION)?;
        let counts = state.channels.iter().flat_map(|channel| {
            [Some(channel.count), channel.next.map(|next| next.count)].into_iter().flatten()
        });
        if let Some(count) = counts.into_iter().find(|count| !(1..=0x1_0000).contains(count)) {
            let reason = format!("a counter cannot count from {count}");
            return Err(DeviceError::Invalid { name: NAME.to_owned(), reason });
        }
        self.channels = state.channels;
        self.port_b = PortB::from_bits_truncate(state.port_b) & PortB::WRITABLE;
        self.seen = state.seen;
        self.armed = None;
        self.timer.disarm();
        self.settle(self.tick());
        Ok(())
    }
}

#[cfg(test)]
mod tests;
