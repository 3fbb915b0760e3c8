//! What the guest may reach, and where that is on the host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::core::Core;
use crate::host;

/// The port of name servers.
pub(crate) const DNS_PORT: u16 = 53;

/// Where something for an address goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// To an address of the world.
    Host(SocketAddr),
    /// To one of the host's name servers.
    Dns,
    /// To nobody, who says so.
    Refused,
    /// To nobody; those who send to many are not answered.
    Silent,
}

/// Finds the way to `remote`, as the guest names it.
pub(crate) fn way(core: &Core, remote: SocketAddr) -> Way {
    let address = remote.ip();
    if is_many(core, address) {
        return Way::Silent;
    }
    if core.is_dns(address) {
        let asks = remote.port() == DNS_PORT && !core.config.restricted;
        return if asks { Way::Dns } else { Way::Refused };
    }
    let allowed = core.config.host_access;
    if core.is_gateway(address) {
        let loopback = match address {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        return if allowed { Way::Host(SocketAddr::new(loopback, remote.port())) } else { Way::Refused };
    }
    if is_special(core, address) {
        return Way::Refused;
    }
    let is_reached = match (core.config.restricted, allowed) {
        (false, true) => true,
        (false, false) => host::is_own(address) == Some(false),
        (true, true) => host::is_own(address) == Some(true),
        (true, false) => false,
    };
    if is_reached { Way::Host(remote) } else { Way::Refused }
}

/// Whether an address stands for more than one host.
fn is_many(core: &Core, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_multicast() || v4.is_broadcast() || v4 == core.config.ipv4.broadcast(),
        IpAddr::V6(v6) => v6.is_multicast(),
    }
}

/// Whether an address means nothing beyond the link it is used on, or means the host by another name.
fn is_special(core: &Core, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, ..] = v4.octets();
            // 0/8 and 240/4 are no destinations (RFC 6890, 2.2.2); link-local ones are not routed (RFC 3927, 7).
            first == 0
                || first >= 240
                || v4.is_loopback()
                || v4.is_link_local()
                || core.config.ipv4.contains(v4)
        }
        IpAddr::V6(v6) => {
            let embedded = v6.segments().iter().take(5).all(|&part| part == 0);
            // The first 80 bits 0: unspecified, loopback, and IPv4 addresses in IPv6 ones (RFC 4291, 2.5).
            embedded
                || v6.is_unicast_link_local()
                || core.config.ipv6.is_none_or(|network| network.contains(v6))
        }
    }
}

/// The peer of a published port, as the guest sees it: the host's loopback is the gateway, and so are peers whose
/// addresses the guest would take for its own network's.
pub(crate) fn apparent(core: &Core, peer: SocketAddr) -> SocketAddr {
    let v4 = &core.config.ipv4;
    let address = match (peer.ip(), core.config.ipv6) {
        (IpAddr::V4(address), _) if address.is_loopback() || v4.contains(address) => v4.gateway.into(),
        (IpAddr::V6(address), Some(v6))
            if address.is_loopback() || address.is_unicast_link_local() || v6.contains(address) =>
        {
            v6.gateway.into()
        }
        (address, _) => address,
    };
    SocketAddr::new(address, peer.port())
}
