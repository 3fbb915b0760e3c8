//! The saved state of a [`CpuHotplug`](super::CpuHotplug).

use serde::{Deserialize, Serialize};

/// Version 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CpuHotplugState {
    pub(super) selector: u32,
    pub(super) command: u8,
    /// How many CPUs the host wants there to be.
    pub(super) wanted: u32,
    pub(super) slots: Vec<Slot>,
}

/// A CPU, or the place of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Slot {
    pub(super) present: bool,
    /// It was plugged in, and the guest has not noticed yet.
    pub(super) inserting: bool,
    /// It is to be unplugged, and the guest has not noticed yet.
    pub(super) removing: bool,
}

impl CpuHotplugState {
    pub(super) const VERSION: u16 = 1;
}
