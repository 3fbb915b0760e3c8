//! The saved state of an [`I8042`](super::I8042).

use serde::{Deserialize, Serialize};

/// Version 1: what the controller holds while it works is what is saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct I8042State {
    pub(super) ram: [u8; 32],
    pub(super) output: u8,
    pub(super) output_full: bool,
    pub(super) timeout: bool,
    pub(super) self_tested: bool,
    /// The last write was a command.
    pub(super) last_was_command: bool,
    /// The command whose byte is to follow.
    pub(super) command: Option<u8>,
    pub(super) a20: bool,
}

impl I8042State {
    pub(super) const VERSION: u16 = 1;
}
