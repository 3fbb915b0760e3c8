//! The mouse: three buttons, and a wheel for systems that ask for one (IBM PS/2 Technical Reference, "Mouse"; Microsoft,
//! "IntelliMouse").

use serde::{Deserialize, Serialize};

use super::queue::Outbox;
use super::regs::{ACKNOWLEDGE, DEVICE_TEST_PASSED, NOT_UNDERSTOOD, RESEND, mouse};

/// What a user did with the mouse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MouseInput {
    /// How far it went to the right.
    pub right: i16,
    /// How far it went down.
    pub down: i16,
    /// How far the wheel was turned towards the user.
    pub wheel: i8,
    /// The buttons that are pressed now: left, right, middle from bit 0.
    pub buttons: u8,
}

/// The most counts of a movement in one report.
const MOST: i32 = 255;
/// The most steps of the wheel in one report.
const MOST_STEPS: i32 = 7;
/// The most counts that are kept for reports to come.
const KEPT: i32 = 0x7fff;

/// What is saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mouse {
    outbox: Outbox,
    /// Whether movements are reported.
    enabled: bool,
    /// Reports come when they are asked for.
    remote: bool,
    /// Everything written comes back.
    wrap: bool,
    /// Movements are reported in steps that grow with them.
    scaling: bool,
    /// Two to this power are the counts per millimetre. No counts change by it.
    resolution: u8,
    /// Reports per second. They come as they are fetched, whatever it is.
    sample_rate: u8,
    /// The sample rates that were set last, oldest first: three of them ask for the wheel.
    rates: [u8; 3],
    wheel: bool,
    /// The command whose argument is to follow.
    command: Option<u8>,
    /// Counts that were not reported yet: right, down, wheel.
    pending: [i32; 3],
    buttons: u8,
    /// The buttons of the last report.
    reported_buttons: u8,
}

impl Mouse {
    /// After power-on.
    pub(super) fn power_on() -> Self {
        Self {
            outbox: Outbox::default(),
            enabled: false,
            remote: false,
            wrap: false,
            scaling: false,
            resolution: 2,
            sample_rate: 100,
            rates: [0; 3],
            wheel: false,
            command: None,
            pending: [0; 3],
            buttons: 0,
            reported_buttons: 0,
        }
    }

    /// The user moves it, turns its wheel or uses its buttons.
    pub(super) fn input(&mut self, input: MouseInput) {
        let MouseInput { right, down, wheel, buttons } = input;
        self.buttons = buttons & 0b111;
        let more = [right.into(), down.into(), i32::from(wheel)];
        for (pending, more) in self.pending.iter_mut().zip(more) {
            *pending = pending.saturating_add(more).clamp(-KEPT, KEPT);
        }
        if !self.enabled && !self.remote {
            // Nobody will ask how it went.
            self.pending = [0; 3];
            return;
        }
        self.stream();
    }

    /// The next byte for the controller.
    pub(super) fn take(&mut self) -> Option<u8> {
        let next = self.outbox.take();
        self.stream();
        next
    }

    /// A byte from the controller.
    pub(super) fn write(&mut self, value: u8) {
        if self.wrap && !matches!(value, mouse::RESET_WRAP | mouse::RESET) {
            return self.outbox.answer(&[value]);
        }
        match (self.command.take(), value) {
            (_, mouse::RESET) => {
                *self = Self::power_on();
                self.outbox.answer(&[ACKNOWLEDGE, DEVICE_TEST_PASSED, mouse::ID]);
            }
            (Some(mouse::SET_RESOLUTION), 0..=3) => {
                self.resolution = value;
                self.outbox.answer(&[ACKNOWLEDGE]);
            }
            (Some(mouse::SET_SAMPLE_RATE), 10..=200) => {
                self.set_sample_rate(value);
                self.outbox.answer(&[ACKNOWLEDGE]);
            }
            (Some(_), _) => self.outbox.answer(&[NOT_UNDERSTOOD]),
            (None, RESEND) => self.outbox.repeat(),
            (None, _) => self.begin(value),
        }
    }

    /// A command that is acknowledged first.
    fn begin(&mut self, command: u8) {
        if !mouse::COMMANDS.contains(&command) {
            return self.outbox.answer(&[NOT_UNDERSTOOD]);
        }
        self.outbox.clear_reports();
        self.outbox.answer(&[ACKNOWLEDGE]);
        match command {
            mouse::SCALING_LINEAR => self.scaling = false,
            mouse::SCALING_DOUBLE => self.scaling = true,
            mouse::STATUS => {
                let [left, right, middle] = [1, 2, 4].map(|button| self.buttons & button != 0);
                let bits = [right, middle, left, false, self.scaling, self.enabled, self.remote];
                let status = bits.iter().rev().fold(0, |status, &bit| status << 1 | u8::from(bit));
                self.outbox.answer(&[status, self.resolution, self.sample_rate]);
            }
            mouse::STREAM => self.remote = false,
            mouse::READ => {
                let report = self.report(false);
                self.outbox.answer(&report);
            }
            mouse::RESET_WRAP => self.wrap = false,
            mouse::SET_WRAP => self.wrap = true,
            mouse::REMOTE => self.remote = true,
            mouse::IDENTIFY => self.outbox.answer(&[if self.wheel { mouse::ID_WHEEL } else { mouse::ID }]),
            mouse::ENABLE => self.enabled = true,
            mouse::DISABLE => self.enabled = false,
            mouse::SET_DEFAULTS => {
                let Self { wheel, buttons, .. } = *self;
                let outbox = std::mem::take(&mut self.outbox);
                *self = Self { outbox, wheel, buttons, ..Self::power_on() };
            }
            _ => self.command = Some(command),
        }
    }

    fn set_sample_rate(&mut self, rate: u8) {
        self.sample_rate = rate;
        let [_, second, third] = self.rates;
        self.rates = [second, third, rate];
        self.wheel |= self.rates == mouse::WHEEL_RATES;
    }

    /// Reports what there is, as long as it has to and there is room.
    fn stream(&mut self) {
        while self.enabled && !self.remote && !self.wrap && self.has_news() && self.outbox.report_fits(4) {
            let report = self.report(self.scaling);
            self.outbox.report(&report);
        }
    }

    fn has_news(&self) -> bool {
        let [right, down, wheel] = self.pending;
        right != 0 || down != 0 || (self.wheel && wheel != 0) || self.buttons != self.reported_buttons
    }

    /// The next report: as much of what is pending as it can say.
    fn report(&mut self, scaling: bool) -> Vec<u8> {
        let [right, down, wheel] = &mut self.pending;
        let x = take(right, MOST);
        // Up is positive in reports.
        let y = take(down, MOST).saturating_neg();
        let [x, y] = if scaling { [scaled(x), scaled(y)] } else { [x, y] };
        let signs = u8::from(x < 0) << 4 | u8::from(y < 0) << 5;
        let mut report = vec![mouse::ALWAYS | self.buttons | signs, x as u8, y as u8];
        if self.wheel {
            report.push(take(wheel, MOST_STEPS) as u8);
        }
        self.reported_buttons = self.buttons;
        report
    }

    /// Whether a saved one can be.
    pub(super) fn is_valid(&self) -> bool {
        self.outbox.is_valid()
    }
}

/// Takes at most `most` counts in either direction.
fn take(pending: &mut i32, most: i32) -> i32 {
    let taken = (*pending).clamp(most.saturating_neg(), most);
    *pending = pending.saturating_sub(taken);
    taken
}

/// Counts as they are reported with scaling.
fn scaled(counts: i32) -> i32 {
    let size = match counts.saturating_abs() {
        0 => 0,
        1 | 2 => 1,
        3 => 3,
        4 => 6,
        5 => 9,
        more => more.saturating_mul(2).min(MOST),
    };
    if counts < 0 { size.saturating_neg() } else { size }
}
