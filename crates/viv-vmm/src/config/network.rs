//! Network interfaces.

use std::net::IpAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use viv_guest_proto::Interface;

use super::FdSlot;

/// The most network interfaces.
pub const MAX_NETWORKS: usize = 8;
/// The most pairs of queues of a network interface.
pub const MAX_NETWORK_QUEUES: usize = 8;
/// The least MTU: what all of IPv6 must carry (RFC 8200, 5).
pub const MIN_MTU: u16 = 1280;

/// One network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkConfig {
    /// Its address: a single host's.
    pub mac: [u8; 6],
    /// The longest packet in bytes that the guest should send, from [`MIN_MTU`] on; `None`: the guest decides.
    pub mtu: Option<u16>,
    /// What it is connected to.
    pub backend: NetworkBackend,
    /// The most bytes of frames in a second, in each direction.
    pub bps: Option<NonZeroU64>,
    /// The most packets in a second, in each direction.
    pub pps: Option<NonZeroU64>,
}

/// What a network interface is connected to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkBackend {
    /// A tap interface of the host's, by its queues, from 1 to [`MAX_NETWORK_QUEUES`].
    Tap {
        /// Descriptors as `viv_tap::open` gives them.
        queues: Vec<FdSlot>,
    },
    /// A network of its own, in the VM process.
    User(UserNetwork),
    /// A process that serves it by vhost-user.
    VhostUser {
        /// Where it listens.
        socket: PathBuf,
    },
}

/// A network in the VM process, from which the guest reaches what the process does.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserNetwork {
    /// Ports of the host that lead to the guest.
    pub publish: Vec<Publish>,
    /// Whether the guest reaches the host itself, at its gateway's address.
    pub host_access: bool,
}

/// A port of the host that leads to one of the guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// The host's address; `None`: its loopback.
    pub host: Option<IpAddr>,
    /// The host's port.
    pub host_port: u16,
    /// The guest's port.
    pub guest_port: u16,
    /// Of which protocol.
    pub protocol: Protocol,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl NetworkConfig {
    pub(super) fn is_valid(&self) -> bool {
        let [first, ..] = self.mac;
        let backend = match &self.backend {
            NetworkBackend::Tap { queues } => (1..=MAX_NETWORK_QUEUES).contains(&queues.len()),
            NetworkBackend::User(_) => true,
            // What it can carry is the back end's to know.
            NetworkBackend::VhostUser { .. } => self.mtu.is_none(),
        };
        backend && first & 1 == 0 && self.mac != [0; 6] && self.mtu.is_none_or(|mtu| mtu >= MIN_MTU)
    }
}

impl UserNetwork {
    /// How the interface with this address is set up in the guest.
    #[must_use]
    pub fn interface(&self, mac: [u8; 6]) -> Interface {
        let ipv4 = self.router(None).ipv4;
        Interface {
            mac,
            addresses: vec![(ipv4.guest.into(), ipv4.prefix)],
            gateways: vec![ipv4.gateway.into()],
            name_servers: vec![ipv4.dns.into()],
            dhcp: false,
        }
    }

    /// The router behind an interface with this MTU.
    pub(crate) fn router(&self, mtu: Option<u16>) -> viv_usernet::Config {
        let usual = viv_usernet::Config::default();
        viv_usernet::Config {
            mtu: mtu.unwrap_or(usual.mtu),
            publish: self.publish.iter().map(|publish| (*publish).into()).collect(),
            host_access: self.host_access,
            ..usual
        }
    }
}

impl From<Publish> for viv_usernet::Publish {
    fn from(publish: Publish) -> Self {
        let Publish { host, host_port, guest_port, protocol } = publish;
        let protocol = match protocol {
            Protocol::Tcp => viv_usernet::Protocol::Tcp,
            Protocol::Udp => viv_usernet::Protocol::Udp,
        };
        Self { host, host_port, guest_port, protocol }
    }
}
