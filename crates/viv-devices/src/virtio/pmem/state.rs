//! The saved state of a [`Pmem`](super::Pmem). What is in the memory is in its file.

use serde::{Deserialize, Serialize};

/// Version 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PmemState {
    /// Where it begins in the guest's physical memory.
    pub(super) start: u64,
    /// Its bytes.
    pub(super) size: u64,
    /// Whether the guest can only read it.
    pub(super) read_only: bool,
}

impl PmemState {
    pub(super) const VERSION: u16 = 1;
}
