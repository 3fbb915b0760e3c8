//! The watchdog: the TCO timer of an ICH9 (ICH9 data sheet, 13.9), as far as a machine without system management mode has
//! a use for it.
//!
//! The timer counts down in ticks of 0.6 s, and starts again when it has come to zero; when it does so a second time
//! without having been started from its beginning by the guest (TCO_RLD), the watchdog has expired
//! ([`SystemRequest::WatchdogExpired`]), and stands still. It stands still after power-on too, as firmware leaves it. That it has expired stays to be read after a reset
//! (SECOND_TO_STS). Guests find it by an ACPI table, the WDAT, which says by what accesses it is used.

mod regs;
mod state;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use viv_engine::{Clock, Timer};

use crate::bus::PortRange;
use crate::device::{Device, DeviceError, PortIo, SavedState, TimerEvents};
use crate::layout;
use crate::portio::read_bytes;
use crate::system::{SystemControl, SystemRequest};
use regs::{COUNT, HALT, LEAST_COUNT, POWER_ON_COUNT, Register, Status, TICK};
use state::{TcoState, TimerState};

const NAME: &str = "tco0";

/// The watchdog.
pub struct Tco {
    clock: Arc<dyn Clock>,
    timer: Arc<dyn Timer>,
    system: Arc<dyn SystemControl>,
    state: TcoState,
}

/// The state after power-on, with what stays through a reset.
fn power_on(status: Status) -> TcoState {
    let timer = TimerState::Halted(POWER_ON_COUNT);
    TcoState { status: status.bits(), initial: POWER_ON_COUNT, again: false, timer }
}

impl Tco {
    /// Its ports.
    pub const PORTS: [PortRange; 1] =
        [PortRange::new(layout::TCO.start, layout::TCO.end.saturating_sub(layout::TCO.start))];

    /// A watchdog that stands still.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, timer: Arc<dyn Timer>, system: Arc<dyn SystemControl>) -> Self {
        Self { clock, timer, system, state: power_on(Status::empty()) }
    }

    /// How many ticks are left.
    fn left(&self) -> u16 {
        match self.state.timer {
            TimerState::Halted(left) => left,
            TimerState::Ends(end) => {
                let left = end.saturating_sub(self.clock.now()).div_ceil(TICK);
                u16::try_from(left).unwrap_or(COUNT).min(COUNT)
            }
        }
    }

    /// Has the timer count from now on.
    fn run(&mut self, ticks: u16) {
        let length = u64::from(ticks).saturating_mul(TICK);
        self.state.timer = TimerState::Ends(self.clock.now().saturating_add(length));
    }

    /// Starts the timer from its beginning.
    fn reload(&mut self) {
        self.state.again = false;
        match self.state.timer {
            TimerState::Halted(_) => self.state.timer = TimerState::Halted(self.state.initial),
            TimerState::Ends(_) => self.run(self.state.initial),
        }
    }

    fn control(&self) -> u16 {
        if matches!(self.state.timer, TimerState::Halted(_)) { HALT } else { 0 }
    }

    fn write_control(&mut self, value: u16) {
        match (self.state.timer, value & HALT != 0) {
            (TimerState::Halted(left), false) => self.run(left),
            (TimerState::Ends(_), true) => self.state.timer = TimerState::Halted(self.left()),
            _ => {}
        }
    }

    fn write_initial(&mut self, value: u16) {
        if value & COUNT >= LEAST_COUNT {
            self.state.initial = value & COUNT;
        }
    }

    /// Notices that the timer has come to zero, once or twice.
    fn catch_up(&mut self) {
        while let TimerState::Ends(end) = self.state.timer
            && end <= self.clock.now()
        {
            self.state.status |= Status::TIMEOUT.bits();
            if self.state.again {
                self.state.status |= Status::SECOND_TIMEOUT.bits();
                self.state.timer = TimerState::Halted(0);
                self.system.request(SystemRequest::WatchdogExpired);
            } else {
                self.state.again = true;
                let length = u64::from(self.state.initial).saturating_mul(TICK);
                self.state.timer = TimerState::Ends(end.saturating_add(length));
            }
        }
    }

    /// Brings the alarm in step with the timer.
    fn settle(&self) {
        match self.state.timer {
            TimerState::Ends(end) => self.timer.arm(end),
            TimerState::Halted(_) => self.timer.disarm(),
        }
    }

    fn read_register(&self, register: Register) -> u16 {
        match register {
            Register::Reload => self.left(),
            Register::Status1 => low_half(self.state.status),
            Register::Status2 => low_half(self.state.status >> 16),
            Register::Control => self.control(),
            Register::Initial => self.state.initial,
            Register::Reserved => 0,
        }
    }

    /// Writes the bits of a register that are in `mask`.
    fn write_register(&mut self, register: Register, value: u16, mask: u16) {
        let alone = value & mask;
        let replaced = self.read_register(register) & !mask | alone;
        match register {
            Register::Reload => self.reload(),
            Register::Status1 => self.state.status &= !u32::from(alone),
            Register::Status2 => self.state.status &= !(u32::from(alone) << 16),
            Register::Control => self.write_control(replaced),
            Register::Initial => self.write_initial(replaced),
            Register::Reserved => {}
        }
    }
}

fn low_half(value: u32) -> u16 {
    let [a, b, ..] = value.to_le_bytes();
    u16::from_le_bytes([a, b])
}

impl PortIo for Tco {
    fn read(&mut self, port: u16, data: &mut [u8]) {
        self.catch_up();
        read_bytes(port, data, |port| {
            let (register, at) = Register::at(port);
            self.read_register(register).to_le_bytes().get(at).copied().unwrap_or(0)
        });
        self.settle();
    }

    fn write(&mut self, port: u16, data: &[u8]) {
        self.catch_up();
        let mut bytes = data.iter().copied().zip(port..=u16::MAX);
        while let Some((byte, port)) = bytes.next() {
            match Register::at(port) {
                (register, 0) => match bytes.next() {
                    Some((high, _)) => {
                        self.write_register(register, u16::from_le_bytes([byte, high]), 0xffff);
                    }
                    None => self.write_register(register, byte.into(), 0x00ff),
                },
                (register, _) => self.write_register(register, u16::from_le_bytes([0, byte]), 0xff00),
            }
        }
        self.settle();
    }
}

impl TimerEvents for Tco {
    fn on_timer(&mut self, _now: u64) {
        self.catch_up();
        self.settle();
    }
}

impl Device for Tco {
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
        self.state = power_on(Status::from_bits_truncate(self.state.status) & Status::SECOND_TIMEOUT);
        self.settle();
    }

    fn save(&self) -> Result<SavedState, DeviceError> {
        SavedState::encode(NAME, TcoState::VERSION, &self.state)
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        let state: TcoState = state.decode(TcoState::VERSION)?;
        let counts = LEAST_COUNT..=COUNT;
        let left = match state.timer {
            TimerState::Halted(left) => left,
            TimerState::Ends(_) => 0,
        };
        if !counts.contains(&state.initial) || left > COUNT {
            let reason = format!("its timer begins with {} and has {left} left", state.initial);
            return Err(DeviceError::Invalid { name: NAME.to_owned(), reason });
        }
        let status = Status::from_bits_truncate(state.status).bits();
        self.state = TcoState { status, ..state };
        self.settle();
        Ok(())
    }
}
