//! The saved state of an [`IrqChip`](super::IrqChip).

use serde::{Deserialize, Serialize};

use super::ioapic::IoapicState;
use super::pic::PicState;

/// Version 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct IrqChipState {
    pub(super) pic: PicState,
    pub(super) ioapic: IoapicState,
}

impl IrqChipState {
    pub(super) const VERSION: u16 = 1;
}
