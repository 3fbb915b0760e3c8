//! Files as memory that outlasts the guest.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The most files.
pub const MAX_PMEMS: usize = 8;

/// A file of the host that the guest has as persistent memory (`/dev/pmem0`, …).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PmemConfig {
    /// The file, of a multiple of 2 MiB. What the guest writes there is in it.
    pub path: PathBuf,
    /// Whether what the guest writes is dropped.
    pub readonly: bool,
}
