//! What a user-mode network is made from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::wire::EthernetAddress;

use crate::Error;

/// The smallest MTU: what IPv6 asks for (RFC 8200, 5).
const MIN_MTU: u16 = 1280;
/// The largest MTU: with an Ethernet header it stays below 64 KiB.
const MAX_MTU: u16 = 65_520;
/// The longest host name (RFC 1035, 2.3.4).
const MAX_HOSTNAME: usize = 63;

/// The addresses of a network, and what its guest may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The IPv4 network.
    pub ipv4: Ipv4Network,
    /// The IPv6 network; none: the guest has no IPv6.
    pub ipv6: Option<Ipv6Network>,
    /// The router's address on the link.
    pub gateway_mac: [u8; 6],
    /// The largest IP packet on the link, in bytes, from 1280 to 65520.
    pub mtu: u16,
    /// The guest's name, which DHCP tells it.
    pub hostname: Option<String>,
    /// Ports of the host that lead to the guest.
    pub publish: Vec<Publish>,
    /// Whether the guest reaches nothing beyond its own network, not even name servers. What is published, and what
    /// `host_access` allows, is within reach still.
    pub restricted: bool,
    /// Whether the guest reaches the host itself: its loopback at the gateway's address, and its other addresses.
    pub host_access: bool,
    /// The host's list of name servers, in the format of resolv.conf(5).
    pub resolv_conf: std::path::PathBuf,
    /// How much a guest may hold.
    pub limits: Limits,
}

/// An IPv4 network with one guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv4Network {
    /// The guest's address.
    pub guest: Ipv4Addr,
    /// The router's.
    pub gateway: Ipv4Addr,
    /// The name server's.
    pub dns: Ipv4Addr,
    /// How many bits of them the network has.
    pub prefix: u8,
}

/// An IPv6 network with one guest, which makes up its address by itself (RFC 4862). The prefix has 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv6Network {
    /// The router's address.
    pub gateway: Ipv6Addr,
    /// The name server's.
    pub dns: Ipv6Addr,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A port of the host that leads to one of the guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish {
    /// The host's address; none: its loopback, 127.0.0.1 and, where there is one, ::1.
    pub host: Option<IpAddr>,
    /// The host's port; 0 lets the host choose ([`crate::UserNet::published`]).
    pub host_port: u16,
    /// The guest's port.
    pub guest_port: u16,
    /// Of which protocol.
    pub protocol: Protocol,
}

/// How much a guest may hold at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// TCP connections. Each takes a descriptor of the process, whose limit (RLIMIT_NOFILE) counts too.
    pub connections: usize,
    /// UDP flows and running echo requests. Each takes a descriptor.
    pub flows: usize,
    /// Bytes of TCP data under way, of all connections, in each direction, beyond 8 KiB of each.
    pub buffered: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 8192, flows: 2048, buffered: 64 << 20 }
    }
}

impl Default for Ipv4Network {
    fn default() -> Self {
        Self {
            guest: Ipv4Addr::new(10, 0, 2, 15),
            gateway: Ipv4Addr::new(10, 0, 2, 2),
            dns: Ipv4Addr::new(10, 0, 2, 3),
            prefix: 24,
        }
    }
}

impl Default for Ipv6Network {
    /// A unique local network (RFC 4193) whose 40 bits are not 0, as in networks that hosts are on.
    fn default() -> Self {
        let address = |last| Ipv6Addr::new(0xFD76, 0x6976, 0x6172, 0, 0, 0, 0, last);
        Self { gateway: address(2), dns: address(3) }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ipv4: Ipv4Network::default(),
            ipv6: Some(Ipv6Network::default()),
            gateway_mac: [0x52, 0x55, 0x0A, 0x00, 0x02, 0x02],
            mtu: 1500,
            hostname: None,
            publish: Vec::new(),
            restricted: false,
            host_access: false,
            resolv_conf: "/etc/resolv.conf".into(),
            limits: Limits::default(),
        }
    }
}

impl Ipv4Network {
    /// The network mask.
    pub(crate) fn mask(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::MAX.checked_shl(32_u32.saturating_sub(self.prefix.into())).unwrap_or(0))
    }

    /// The address of all on the network.
    pub(crate) fn broadcast(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.gateway.to_bits() | !self.mask().to_bits())
    }

    /// Whether an address belongs to it.
    pub(crate) fn contains(&self, address: Ipv4Addr) -> bool {
        let mask = self.mask().to_bits();
        address.to_bits() & mask == self.gateway.to_bits() & mask
    }
}

impl Ipv6Network {
    /// The prefix, the other 64 bits 0.
    pub(crate) fn prefix(&self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.gateway.to_bits() & !u128::from(u64::MAX))
    }

    /// Whether an address belongs to it.
    pub(crate) fn contains(&self, address: Ipv6Addr) -> bool {
        (address.to_bits() ^ self.gateway.to_bits()) >> 64 == 0
    }
}

impl Config {
    /// Whether a network can be made from it.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let v4 = &self.ipv4;
        let inside = [v4.guest, v4.gateway, v4.dns].iter().all(|&one| v4.contains(one));
        let apart = v4.guest != v4.gateway && v4.guest != v4.dns && v4.gateway != v4.dns;
        if !(8..=30).contains(&v4.prefix) || !inside || !apart {
            return Err(Error::Ipv4Network {
                guest: v4.guest,
                gateway: v4.gateway,
                dns: v4.dns,
                prefix: v4.prefix,
            });
        }
        if let Some(v6) = &self.ipv6
            && (!v6.contains(v6.dns) || v6.dns == v6.gateway || !v6.gateway.is_unique_local())
        {
            return Err(Error::Ipv6Network { gateway: v6.gateway, dns: v6.dns });
        }
        if !EthernetAddress(self.gateway_mac).is_unicast() {
            return Err(Error::Mac { mac: EthernetAddress(self.gateway_mac).to_string() });
        }
        if !(MIN_MTU..=MAX_MTU).contains(&self.mtu) {
            return Err(Error::Mtu { mtu: self.mtu, least: MIN_MTU, most: MAX_MTU });
        }
        match &self.hostname {
            Some(name) if !is_hostname(name) => Err(Error::Hostname { name: name.clone() }),
            _ => Ok(()),
        }
    }
}

fn is_hostname(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=MAX_HOSTNAME).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}
