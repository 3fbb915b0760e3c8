//! Saving and restoring.

use serde::{Deserialize, Serialize};

use crate::virtio::throttle::Paid;
use crate::{DeviceError, SavedState};

pub(super) const NAME: &str = "virtio-blk";

/// A disk. Nothing is under way while it is saved, and the rings are the transport's.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct BlockState {
    pub(super) size: u64,
    pub(super) read_only: bool,
    /// What the driver wrote into the configuration space.
    pub(super) writeback: bool,
    /// How much of its limits is used up.
    pub(super) paid: Paid,
}

/// Version 1, of disks without a cache to configure and without limits.
#[derive(Debug, Serialize, Deserialize)]
struct BlockStateV1 {
    size: u64,
    read_only: bool,
}

impl BlockState {
    const VERSION: u16 = 2;

    pub(super) fn encode(&self) -> Result<SavedState, DeviceError> {
        SavedState::encode(NAME, Self::VERSION, self)
    }

    /// Decodes a state of this version or an older one.
    pub(super) fn decode(state: &SavedState) -> Result<Self, DeviceError> {
        if state.version != 1 {
            return state.decode(Self::VERSION);
        }
        let BlockStateV1 { size, read_only } = state.decode(1)?;
        Ok(Self { size, read_only, writeback: true, paid: Paid::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_state_is_of_a_disk_that_caches() {
        let old = BlockStateV1 { size: 512, read_only: true };
        let state = SavedState::encode(NAME, 1, &old).unwrap();
        let BlockState { size, read_only, writeback, paid } = BlockState::decode(&state).unwrap();
        assert_eq!((size, read_only, writeback, paid), (512, true, true, [0, 0]));
    }
}
