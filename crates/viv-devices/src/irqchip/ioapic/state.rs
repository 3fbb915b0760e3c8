//! The saved state of the IOAPIC.

use serde::{Deserialize, Serialize};

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::irqchip) struct IoapicState {
    pub(super) id: u8,
    pub(super) select: u8,
    /// The lines as they are, one bit for each.
    pub(super) lines: u32,
    pub(super) redirections: [u64; 24],
}
