//! Saving and restoring.

use serde::{Deserialize, Serialize};

/// The saved state of a [`Vsock`](super::Vsock), version 1. Connections do not outlive the process that has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct VsockState {
    /// The guest's address.
    pub(super) guest_cid: u64,
    /// The host's port of the next connection that the host asks for.
    pub(super) next_port: u32,
    /// Whether the guest has to be told that its connections are gone.
    pub(super) lost: bool,
}

impl VsockState {
    pub(super) const NAME: &str = "virtio-vsock";
    pub(super) const VERSION: u16 = 1;
}
