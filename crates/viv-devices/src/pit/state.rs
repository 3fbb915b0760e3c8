//! The saved state of a [`Pit`](super::Pit).

use serde::{Deserialize, Serialize};

use super::regs::{Access, Mode};

/// Version 1. Times are in ticks of the 8254's clock since guest time 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PitState {
    pub(super) channels: [ChannelState; 3],
    pub(super) port_b: u8,
    /// Up to when counter 0 has made its interrupts.
    pub(super) seen: i64,
}

impl PitState {
    pub(super) const VERSION: u16 = 1;
}

/// One counter: what it holds while it works is what is saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ChannelState {
    pub(super) mode: Mode,
    pub(super) access: Access,
    pub(super) bcd: bool,
    pub(super) gate: bool,
    /// The count it started from: 1 to 0x10000 (BCD: to 16665, for digits beyond 9).
    pub(super) count: u32,
    pub(super) phase: Phase,
    /// A count that was written and is not in effect yet.
    pub(super) next: Option<NextCount>,
    /// The first byte of a count of two.
    pub(super) low_written: Option<u8>,
    /// The next byte read is the second of a count.
    pub(super) reads_high: bool,
    pub(super) latched_count: Option<u16>,
    pub(super) latched_status: Option<u8>,
}

/// Whether a counter counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Phase {
    /// It has no count.
    Idle,
    /// It has a count and waits for its gate to rise.
    Waiting,
    /// It has counted down since this tick.
    Counting {
        /// When it held its full count.
        since: i64,
    },
    /// Its gate is low.
    Held {
        /// How many ticks it had counted.
        elapsed: u32,
    },
}

/// A count to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NextCount {
    pub(super) count: u32,
    /// When it takes effect; without, it does when the gate rises.
    pub(super) at: Option<i64>,
}
