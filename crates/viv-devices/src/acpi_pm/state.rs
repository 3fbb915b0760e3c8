//! The saved state of an [`AcpiPm`](super::AcpiPm).

use serde::{Deserialize, Serialize};

/// Version 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AcpiPmState {
    pub(super) status: u16,
    pub(super) enable: u16,
    pub(super) control: u16,
    pub(super) gpe_status: u32,
    pub(super) gpe_enable: u32,
    /// How often the PM timer's highest bit had changed when the guest was last told.
    pub(super) timer_turns: u64,
}

impl AcpiPmState {
    pub(super) const VERSION: u16 = 1;
}
