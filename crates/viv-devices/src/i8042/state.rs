//! The saved state of an [`I8042`](super::I8042).

use serde::{Deserialize, Serialize};

use super::keyboard::Keyboard;
use super::mouse::Mouse;

/// Version 3: what the controller holds while it works is what is saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct I8042State {
    pub(super) controller: ControllerState,
    /// The output buffer has a byte of the auxiliary device.
    pub(super) from_auxiliary: bool,
    /// The byte that the controller translates next is of a key that went up.
    pub(super) key_up: bool,
    /// What is attached.
    pub(super) devices: Option<Devices>,
}

impl I8042State {
    pub(super) const VERSION: u16 = 3;
}

/// Of the controller alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ControllerState {
    pub(super) ram: [u8; 32],
    pub(super) output: u8,
    pub(super) output_full: bool,
    pub(super) timeout: bool,
    pub(super) self_tested: bool,
    /// The last write was a command.
    pub(super) last_was_command: bool,
    /// The command whose byte is to follow.
    pub(super) command: Option<u8>,
}

/// Keyboard and mouse.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Devices {
    pub(super) keyboard: Keyboard,
    pub(super) mouse: Mouse,
}

impl Devices {
    /// After power-on.
    pub(super) fn power_on() -> Self {
        Self { keyboard: Keyboard::power_on(), mouse: Mouse::power_on() }
    }

    /// Whether saved ones can be.
    pub(super) fn is_valid(&self) -> bool {
        self.keyboard.is_valid() && self.mouse.is_valid()
    }
}
