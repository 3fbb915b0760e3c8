//! Ports of the host that lead to the guest.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::SocketType;

use crate::config::{Protocol, Publish};
use crate::core::{Core, Token};
use crate::error::Error;
use crate::host;
use crate::policy;
use crate::slots::{Id, Slots};

/// A socket at which the host listens for the guest.
#[derive(Debug)]
pub(crate) struct Port {
    pub publish: Publish,
    pub socket: OwnedFd,
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether something may wait there.
    pub readable: bool,
    /// Whether it is in turn to give datagrams to the guest.
    pub queued: bool,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Published {
    ports: Slots<Port>,
}

impl Published {
    /// Listens at all ports that are to be published.
    pub(crate) fn new(core: &Core) -> Result<Self, Error> {
        let mut published = Self { ports: Slots::new(usize::MAX) };
        for publish in &core.config.publish {
            let at = |address: IpAddr| SocketAddr::new(address, publish.host_port);
            let Some(address) = publish.host else {
                let first = published.open(core, publish, at(Ipv4Addr::LOCALHOST.into()))?;
                // The second socket gets the port that the first one got.
                let second = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), first.port());
                match published.open(core, publish, second) {
                    Ok(_) | Err(Error::Publish { source: Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT, .. }) => {}
                    Err(error) => return Err(error),
                }
                continue;
            };
            published.open(core, publish, at(address))?;
        }
        Ok(published)
    }

    fn open(&mut self, core: &Core, publish: &Publish, address: SocketAddr) -> Result<SocketAddr, Error> {
        let kind = match publish.protocol {
            Protocol::Tcp => SocketType::STREAM,
            Protocol::Udp => SocketType::DGRAM,
        };
        let failed = |source| Error::Publish { protocol: publish.protocol, address, source };
        let socket = host::listen(address, kind).map_err(failed)?;
        let address = host::local_address(&socket).unwrap_or(address);
        let mut watched = Ok(());
        self.ports.insert_with(|id| {
            watched = core.host.watch(&socket, Token::Published(id));
            Some(Port { publish: *publish, socket, address, readable: false, queued: false })
        });
        watched.map_err(failed)?;
        Ok(address)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Id, &Port)> {
        self.ports.iter()
    }

    pub(crate) fn get_mut(&mut self, id: Id) -> Option<&mut Port> {
        self.ports.get_mut(id)
    }
}

/// Where in the guest what comes from `peer` goes, and what the guest sees as its origin.
///
/// Who comes from the host itself goes to the guest's IPv4 address, whatever the client took "localhost" for: few servers
/// listen at IPv6 addresses alone. So does everybody if the guest has no IPv6 address.
pub(crate) fn guest_ends(core: &Core, peer: SocketAddr, guest_port: u16) -> (SocketAddr, SocketAddr) {
    let remote = policy::apparent(core, peer);
    match (remote, core.guest_v6) {
        (SocketAddr::V6(_), Some(guest)) if !core.is_gateway(remote.ip()) => {
            (SocketAddr::new(guest.into(), guest_port), remote)
        }
        _ => {
            let v4 = &core.config.ipv4;
            let origin = if remote.is_ipv4() { remote.ip() } else { v4.gateway.into() };
            (SocketAddr::new(v4.guest.into(), guest_port), SocketAddr::new(origin, remote.port()))
        }
    }
}
