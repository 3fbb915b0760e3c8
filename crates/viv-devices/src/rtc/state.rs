//! The saved state of an [`Rtc`](super::Rtc).

use serde::{Deserialize, Serialize};

/// Version 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RtcState {
    pub(super) index: u8,
    /// The 128 bytes; the time in them is valid only while the guest sets it.
    pub(super) ram: Vec<u8>,
    /// What is added to the host's time of day, in nanoseconds.
    pub(super) offset: i128,
    /// The last second (since the Unix epoch) that had its update.
    pub(super) updated: i64,
    /// Up to which tick of 32,768 Hz periodic interrupts were made.
    pub(super) periodic_seen: u64,
}

impl RtcState {
    pub(super) const VERSION: u16 = 1;
}
