//! Directories of the host that a guest sees.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::FdSlot;

/// The most directories.
pub const MAX_SHARES: usize = 8;
/// The longest tag, in bytes (VIRTIO 1.3, 5.11.4).
pub const MAX_TAG: usize = 36;

/// A directory of the host that a guest sees, as a file system of virtio.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// Who serves it.
    pub source: ShareSource,
    /// The name by which the guest finds it, from 1 to [`MAX_TAG`] bytes.
    pub tag: String,
    /// Whether the guest is to mount it so that nothing can be changed in it.
    pub readonly: bool,
}

/// Who serves a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShareSource {
    /// A process that listens at this path, by vhost-user.
    VhostUser(PathBuf),
    /// A process at the other end of a socket, by vhost-user.
    Connected {
        /// The socket.
        socket: FdSlot,
        /// What is shared, for messages.
        name: String,
    },
}

impl Share {
    pub(super) fn is_valid(&self) -> bool {
        (1..=MAX_TAG).contains(&self.tag.len()) && !self.tag.contains('\0')
    }
}
