//! What is said between which two ends.

use std::net::{IpAddr, SocketAddr};

/// The guest's end, and the other one as the guest sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ends {
    pub guest: SocketAddr,
    pub remote: SocketAddr,
}

impl Ends {
    pub(crate) fn new(guest: (IpAddr, u16), remote: (IpAddr, u16)) -> Self {
        Self { guest: guest.into(), remote: remote.into() }
    }
}
