//! How a directory is shared.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};

/// Descriptors that are neither nodes' nor handles': the socket, rings, memory.
const OTHER_DESCRIPTORS: u64 = 128;
/// The most descriptors that a share may have, and so the most files that the guest can know at a time.
const MOST_DESCRIPTORS: u64 = 1 << 20;

/// The part of all descriptors that are for what is open; the others are for what is known.
const HANDLES_SHARE: usize = 8;

/// How a directory is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Whether the guest may change nothing.
    pub read_only: bool,
    /// What the guest may keep in its memory.
    pub cache: Cache,
    /// Whose files are whose.
    pub owners: Owners,
    /// The most files that the guest may know.
    pub nodes: usize,
    /// The most that it may have open.
    pub handles: usize,
}

/// What the guest may rely on without asking again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cache {
    /// Nothing: content, names and attributes come from the host each time.
    None,
    /// Content from an open to the next, names and attributes for a second.
    #[default]
    Auto,
    /// Everything, for good: nobody else changes the directory.
    Always,
}

/// Whose files are whose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// Users and groups have the same numbers in the guest and on the host. The server is root.
    Same,
    /// Everything that the guest makes belongs to this user and group, who are root in the guest; the others are nobody.
    Squashed {
        /// The user's number on the host.
        user: u32,
        /// The group's.
        group: u32,
    },
}

impl Settings {
    /// Settings for a server in this process, within its limit on descriptors.
    #[must_use]
    pub fn of_this_process(read_only: bool, cache: Cache, owners: Owners) -> Self {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(MOST_DESCRIPTORS);
        let limit = limit.min(MOST_DESCRIPTORS).saturating_sub(OTHER_DESCRIPTORS);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let handles = limit / HANDLES_SHARE;
        Self { read_only, cache, owners, nodes: limit.saturating_sub(handles), handles }
    }
}

impl Owners {
    /// What becomes of users where the user of this process serves, `alone` if there are no others.
    #[must_use]
    pub fn of(user: u32, group: u32, alone: bool) -> Self {
        if user == 0 && !alone { Self::Same } else { Self::Squashed { user, group } }
    }
}

impl Cache {
    /// How long the guest may rely on names and attributes.
    pub(crate) const fn validity(self) -> Duration {
        match self {
            Self::None => Duration::ZERO,
            Self::Auto => Duration::from_secs(1),
            Self::Always => Duration::from_secs(86_400),
        }
    }
}

impl FromStr for Cache {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "auto" => Ok(Self::Auto),
            "always" => Ok(Self::Always),
            _ => Err(format!("'{text}' is no way to cache; give none, auto or always")),
        }
    }
}

impl fmt::Display for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Auto => "auto",
            Self::Always => "always",
        })
    }
}
