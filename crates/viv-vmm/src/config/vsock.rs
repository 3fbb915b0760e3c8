//! Sockets between the guest and its host.

use serde::{Deserialize, Serialize};
use viv_devices::virtio::Vsock;

use super::{FdSlot, MachineConfig};

/// The least address of a guest: those below are for everybody and for hosts (VIRTIO 1.3, 5.10.4).
pub const MIN_CID: u32 = 3;
/// The greatest address of a guest: the one above stands for any.
pub const MAX_CID: u32 = u32::MAX - 1;

/// Sockets between the guest and its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VsockConfig {
    /// The guest's address, from [`MIN_CID`] to [`MAX_CID`].
    pub cid: u32,
    /// A listening Unix socket, to which programs of the host connect.
    pub listener: FdSlot,
    /// What [`connector::start`](crate::connector::start) gives: where the guest's connections are made.
    pub connector: FdSlot,
}

impl MachineConfig {
    /// How many descriptors a machine may come to have for sockets between the guest and its host.
    pub(crate) fn connections(&self) -> u64 {
        self.vsock.map_or(0, |_| VsockConfig::DESCRIPTORS)
    }
}

impl VsockConfig {
    /// How many programs of the host may be about to say to which port they want.
    pub(crate) const GREETINGS: usize = 64;
    /// The most descriptors for connections.
    const DESCRIPTORS: u64 = (Vsock::MAX_CONNECTIONS + Self::GREETINGS) as u64;
}
