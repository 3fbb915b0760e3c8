//! What outlasts a router: which connections a guest had, so that the next router can tell it that they are gone.
//!
//! The host's ends of connections cannot be saved. A guest that was restored would wait for them: who only listens never
//! learns that nobody is there. So each of its connections is reset as soon as it takes frames.

use std::collections::VecDeque;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use smoltcp::wire::EthernetAddress;

/// The state of a [`UserNet`](crate::UserNet) that is saved with a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// The guest's link address, once it has sent something.
    pub(crate) guest: Option<[u8; 6]>,
    pub(crate) connections: VecDeque<SavedConnection>,
}

/// A connection that is gone, as far as it takes to say so in a way that is believed (RFC 9293, 3.10.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedConnection {
    pub guest: SocketAddr,
    pub remote: SocketAddr,
    /// The next number that the guest expects.
    pub seq: u32,
    /// The next number that it was to send, if that is known.
    pub ack: Option<u32>,
}

impl Saved {
    /// The guest's link address, if it is one.
    pub(crate) fn guest(&self) -> Option<EthernetAddress> {
        self.guest.map(EthernetAddress).filter(EthernetAddress::is_unicast)
    }
}
