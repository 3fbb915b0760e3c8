//! What can go wrong with a user-mode network.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::Protocol;

/// Why a network cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The IPv4 addresses do not go together.
    #[error(
        "guest {guest}, gateway {gateway} and DNS {dns} are no network with a prefix of {prefix} bits: \
         use three different addresses of one network, with 8 to 30 bits"
    )]
    Ipv4Network {
        /// The guest's address.
        guest: Ipv4Addr,
        /// The router's.
        gateway: Ipv4Addr,
        /// The name server's.
        dns: Ipv4Addr,
        /// How many bits the network has.
        prefix: u8,
    },
    /// The IPv6 addresses do not go together.
    #[error(
        "gateway {gateway} and DNS {dns} are no IPv6 network: use two different unique local addresses \
         (fd00::/8) with the same first 64 bits"
    )]
    Ipv6Network {
        /// The router's address.
        gateway: Ipv6Addr,
        /// The name server's.
        dns: Ipv6Addr,
    },
    /// The router's link address stands for more than one.
    #[error(
        "the gateway cannot have the MAC address {mac}: use one whose first byte is even, not all zeroes"
    )]
    Mac {
        /// The address.
        mac: String,
    },
    /// The MTU is out of range.
    #[error("an MTU of {mtu} bytes is not possible: use {least} to {most}")]
    Mtu {
        /// What was asked for.
        mtu: u16,
        /// The smallest.
        least: u16,
        /// The largest.
        most: u16,
    },
    /// The name is none for hosts.
    #[error("{name:?} is no host name: use up to 63 letters, digits and inner hyphens")]
    Hostname {
        /// The name.
        name: String,
    },
    /// The host gives no socket for a published port.
    #[error("cannot publish {} port {address} of the host: {source}{}", match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    }, hint(*source))]
    Publish {
        /// Of which protocol.
        protocol: Protocol,
        /// The host's address and port.
        address: SocketAddr,
        /// What the host answered.
        source: rustix::io::Errno,
    },
    /// The host lacks what the network stands on.
    #[error("cannot {action} for the user-mode network: {source}")]
    Host {
        /// What was being done.
        action: &'static str,
        /// What the host answered.
        source: rustix::io::Errno,
    },
}

fn hint(errno: rustix::io::Errno) -> &'static str {
    match errno {
        rustix::io::Errno::ADDRINUSE => "; choose another port",
        rustix::io::Errno::ACCESS => "; choose a port from 1024 on",
        rustix::io::Errno::ADDRNOTAVAIL => "; choose an address that the host has",
        _ => "",
    }
}
