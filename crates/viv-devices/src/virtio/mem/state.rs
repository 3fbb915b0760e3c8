//! The saved state of a [`Memory`](super::Memory). What is in the blocks is guest RAM's.

use serde::{Deserialize, Serialize};

/// Version 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MemoryState {
    /// Where its region begins in the guest's physical memory.
    pub(super) start: u64,
    /// How many bytes the host wants to be plugged.
    pub(super) requested: u64,
    /// Which blocks are, all that the region has.
    pub(super) plugged: Vec<bool>,
}

impl MemoryState {
    pub(super) const VERSION: u16 = 1;
}
