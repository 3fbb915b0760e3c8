//! The saved state of a [`FwCfg`](super::FwCfg).

use serde::{Deserialize, Serialize};

/// Version 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FwCfgState {
    pub(super) selector: u16,
    pub(super) offset: u32,
    /// The upper half of the DMA address.
    pub(super) dma_high: u32,
    /// What was made or written, by key.
    pub(super) contents: Vec<(u16, Vec<u8>)>,
}

impl FwCfgState {
    pub(super) const VERSION: u16 = 1;
}
