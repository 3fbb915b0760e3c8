//! Saving and restoring.

use serde::{Deserialize, Serialize};

use super::{VhostUser, VhostUserKind};
use crate::{DeviceError, SavedState};

const NAME: &str = "vhost-user";
const VERSION: u16 = 1;

/// What the device is to the driver. The rings are the transport's, and nothing is under way while it is saved.
#[derive(Serialize, Deserialize)]
struct VhostUserState {
    id: u16,
    queues: u16,
    config: Vec<u8>,
}

impl VhostUser {
    pub(super) fn save_state(&self) -> Result<SavedState, DeviceError> {
        if matches!(self.kind, VhostUserKind::FileSystem { .. }) {
            let reason = "which files the guest has open is known to its back end alone";
            return Err(DeviceError::NotSaved { name: self.name(), reason });
        }
        SavedState::encode(NAME, VERSION, &self.state())
    }

    pub(super) fn restore_state(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        let saved: VhostUserState = state.decode(VERSION)?;
        let own = self.state();
        let invalid =
            |reason: &str| Err(DeviceError::Invalid { name: self.name(), reason: reason.to_owned() });
        if (saved.id, saved.queues) != (own.id, own.queues) {
            return invalid("its back end has other queues, or is of another kind");
        }
        if saved.config != own.config {
            return invalid("its back end says otherwise of itself, its size or address for one");
        }
        Ok(())
    }

    fn state(&self) -> VhostUserState {
        let queues = u16::try_from(self.rings.len()).unwrap_or(u16::MAX);
        VhostUserState { id: super::VirtioDevice::kind(self).id, queues, config: self.config.clone() }
    }

    fn name(&self) -> String {
        match &self.kind {
            VhostUserKind::Block => "a disk by vhost-user".to_owned(),
            VhostUserKind::Net { .. } => "a network interface by vhost-user".to_owned(),
            VhostUserKind::FileSystem { tag } => format!("the file system {tag}"),
        }
    }
}
