//! The saved state of an [`Hpet`](super::Hpet).

use serde::{Deserialize, Serialize};

use super::regs::TIMERS;

/// Version 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HpetState {
    pub(super) configuration: u64,
    pub(super) status: u64,
    /// The main counter at `seen`.
    pub(super) counter: u64,
    /// Up to when interrupts were made, in ticks of the counter's clock since guest time 0.
    pub(super) seen: u64,
    pub(super) timers: [TimerState; TIMERS],
}

impl HpetState {
    pub(super) const VERSION: u16 = 1;
}

/// One comparator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TimerState {
    pub(super) configuration: u64,
    pub(super) comparator: u64,
    pub(super) period: u64,
}
