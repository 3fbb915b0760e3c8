//! The saved state of a [`Balloon`](super::Balloon). Its pages are guest RAM's.

use serde::{Deserialize, Serialize};

use super::MemoryStatistics;

/// Version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct BalloonState {
    /// How many pages the host wants the balloon to have.
    pub(super) target: u32,
    /// How many the driver says it has.
    pub(super) actual: u32,
    /// What the driver fills free pages with.
    pub(super) poison: u32,
    /// Whether the statistics in the ring's next buffer have been read.
    pub(super) heard: bool,
    /// Whether the driver is to be asked for new ones.
    pub(super) asked: bool,
    /// What was read last.
    pub(super) statistics: Option<MemoryStatistics>,
}

impl BalloonState {
    pub(super) const VERSION: u16 = 1;
}
