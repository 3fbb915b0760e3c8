//! The keyboard: an enhanced PC keyboard with scan code set 2 (IBM PS/2 Technical Reference, "Keyboards").

use serde::{Deserialize, Serialize};

use super::keys::Key;
use super::queue::Outbox;
use super::regs::{ACKNOWLEDGE, BREAK, DEVICE_TEST_PASSED, ECHO, RESEND, keyboard};

/// What is saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Keyboard {
    outbox: Outbox,
    /// Whether keys are reported.
    scanning: bool,
    /// Scroll lock, number lock and capitals lock, from bit 0.
    leds: u8,
    /// The command whose argument is to follow.
    command: Option<u8>,
}

impl Keyboard {
    /// After power-on.
    pub(super) fn power_on() -> Self {
        Self { outbox: Outbox::default(), scanning: true, leds: 0, command: None }
    }

    /// A key goes down or up. False if the guest has not fetched what was typed before and there is no room.
    pub(super) fn key(&mut self, key: Key, down: bool) -> bool {
        !self.scanning || self.outbox.report(&key.set_2(down))
    }

    /// The lights that are on: scroll lock, number lock and capitals lock, from bit 0.
    pub(super) fn leds(&self) -> u8 {
        self.leds
    }

    /// The next byte for the controller.
    pub(super) fn take(&mut self) -> Option<u8> {
        self.outbox.take()
    }

    /// A byte from the controller.
    pub(super) fn write(&mut self, value: u8) {
        // A command may come where an argument is awaited; no argument looks like one.
        let command = self.command.take().filter(|_| value < keyboard::FIRST_COMMAND);
        match (command, value) {
            (Some(keyboard::SET_LEDS), leds) => {
                self.leds = leds & 0b111;
                self.outbox.answer(&[ACKNOWLEDGE]);
            }
            (Some(keyboard::SCAN_CODE_SET), 0) => self.outbox.answer(&[ACKNOWLEDGE, 2]),
            (Some(keyboard::SCAN_CODE_SET), 2) | (Some(keyboard::SET_TYPEMATIC), _) => {
                self.outbox.answer(&[ACKNOWLEDGE]);
            }
            (_, keyboard::SET_LEDS | keyboard::SCAN_CODE_SET | keyboard::SET_TYPEMATIC) => {
                self.command = Some(value);
                self.outbox.answer(&[ACKNOWLEDGE]);
            }
            (_, ECHO) => self.outbox.answer(&[ECHO]),
            (_, keyboard::IDENTIFY) => {
                self.outbox.answer(&[ACKNOWLEDGE]);
                self.outbox.answer(&keyboard::ID);
            }
            (_, keyboard::ENABLE | keyboard::SET_DEFAULTS) => {
                self.outbox.clear_reports();
                self.scanning = true;
                self.outbox.answer(&[ACKNOWLEDGE]);
            }
            (_, keyboard::DISABLE) => {
                self.outbox.clear_reports();
                self.scanning = false;
                self.outbox.answer(&[ACKNOWLEDGE]);
            }
            // How keys of set 3 are reported.
            (None, keyboard::ALL_KEYS_FIRST..=keyboard::ALL_KEYS_LAST) => self.outbox.answer(&[ACKNOWLEDGE]),
            (_, RESEND) => self.outbox.repeat(),
            (_, keyboard::RESET) => {
                *self = Self::power_on();
                self.outbox.answer(&[ACKNOWLEDGE, DEVICE_TEST_PASSED]);
            }
            // Sets 1 and 3, which this keyboard has not, among others.
            _ => self.outbox.answer(&[RESEND]),
        }
    }

    /// Whether a saved one can be.
    pub(super) fn is_valid(&self) -> bool {
        self.outbox.is_valid()
    }
}

/// The controller's translation from scan code set 2 to set 1, byte by byte. A byte that says that a key went up
/// becomes a bit of the next, so it is `None`; `up` carries it.
pub(super) fn translate(byte: u8, up: &mut bool) -> Option<u8> {
    if byte == BREAK {
        *up = true;
        return None;
    }
    let up = std::mem::take(up);
    let code = SET_1.get(usize::from(byte)).copied().unwrap_or(match byte {
        0x83 => 0x41,
        0x84 => 0x54,
        _ => byte,
    });
    Some(if up { code | 0x80 } else { code })
}

/// The codes of set 1 by those of set 2, as the controller of the IBM AT has them.
const SET_1: [u8; 128] = [
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59, //
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b, //
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d, //
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f, //
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61, //
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76, //
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f, //
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
];
