//! The saved state of a [`Tco`](super::Tco).

use serde::{Deserialize, Serialize};

/// Version 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TcoState {
    /// TCO1_STS, and TCO2_STS in the upper half.
    pub(super) status: u32,
    /// What the timer begins with, in ticks.
    pub(super) initial: u16,
    /// Whether it has come to zero since it was started from its beginning.
    pub(super) again: bool,
    pub(super) timer: TimerState,
}

/// The timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum TimerState {
    /// It stands still with so many ticks left.
    Halted(u16),
    /// It comes to zero at this guest time, in nanoseconds.
    Ends(u64),
}

impl TcoState {
    pub(super) const VERSION: u16 = 1;
}
