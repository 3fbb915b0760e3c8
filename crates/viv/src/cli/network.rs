//! `--net`.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::str::FromStr;

use viv_vmm::config::{MAX_NETWORK_QUEUES, MIN_MTU, Protocol, Publish};

use crate::rate;

/// One `--net`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetArg {
    /// What it is connected to.
    pub kind: NetKind,
    /// Its address, if it is to have a certain one.
    pub mac: Option<[u8; 6]>,
    /// The longest packet.
    pub mtu: Option<u16>,
    /// How many pairs of queues it has.
    pub queues: usize,
    /// Addresses that the guest gives it, each with the bits of its network's prefix.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Routers that the guest uses.
    pub gateways: Vec<IpAddr>,
    /// Name servers that the guest uses.
    pub name_servers: Vec<IpAddr>,
    /// The most bytes in a second, in each direction.
    pub bps: Option<NonZeroU64>,
    /// The most packets in a second, in each direction.
    pub pps: Option<NonZeroU64>,
}

/// What a network interface is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetKind {
    /// There is no interface.
    None,
    /// A network in the VM process.
    User,
    /// A tap interface of the host.
    Tap(String),
    /// A bridge of the host.
    Bridge(String),
    /// A process that serves it by vhost-user, by the path at which it listens.
    VhostUser(String),
}

impl fmt::Display for NetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::User => f.write_str("user"),
            Self::Tap(name) => write!(f, "tap={name}"),
            Self::Bridge(name) => write!(f, "bridge={name}"),
            Self::VhostUser(socket) => write!(f, "vhost-user={socket}"),
        }
    }
}

impl NetArg {
    /// One without options.
    pub fn plain(kind: NetKind) -> Self {
        Self {
            kind,
            mac: None,
            mtu: None,
            queues: 1,
            addresses: Vec::new(),
            gateways: Vec::new(),
            name_servers: Vec::new(),
            bps: None,
            pps: None,
        }
    }

    /// Reads a kind with options behind commas.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let mut net = Self::plain(kind(parts.next().unwrap_or_default())?);
        for part in parts {
            let (option, value) = part.split_once('=').unwrap_or((part, ""));
            match option {
                "mac" => net.mac = Some(mac(value)?),
                "mtu" => net.mtu = Some(mtu(value)?),
                "queues" => net.queues = queues(value)?,
                "address" => net.addresses.push(network(value)?),
                "gateway" => net.gateways.push(address(option, value)?),
                "dns" => net.name_servers.push(address(option, value)?),
                "bps" => net.bps = Some(rate::bytes(option, value)?),
                "pps" => net.pps = Some(rate::count(option, "packets", value)?),
                _ => {
                    return Err(format!(
                        "the option '{option}' is not known; 'mac', 'mtu', 'queues', 'bps', 'pps', 'address', 'gateway' and 'dns' are"
                    ));
                }
            }
        }
        let set_up = [net.addresses.len(), net.gateways.len(), net.name_servers.len()] != [0; 3];
        match net.kind {
            NetKind::None if text != "none" => Err("there are no options for no interface".to_owned()),
            NetKind::User if set_up || net.queues != 1 => {
                Err("its addresses are given, and it has one pair of queues; leave out all but mac, mtu, bps and pps"
                    .to_owned())
            }
            NetKind::VhostUser(_)
                if net.mtu.is_some() || net.queues != 1 || net.bps.is_some() || net.pps.is_some() =>
            {
                Err("what it carries is the other process's, and it has one pair of queues; leave out all but mac and addresses"
                    .to_owned())
            }
            _ => Ok(net),
        }
    }
}

fn kind(text: &str) -> Result<NetKind, String> {
    let (kind, name) = text.split_once('=').unwrap_or((text, ""));
    match (kind, name) {
        ("none", "") => Ok(NetKind::None),
        ("user", "") => Ok(NetKind::User),
        ("tap", name @ ("" | "%d")) => Err(format!("'tap={name}' names no interface; give tap=NAME")),
        ("tap", name) => Ok(NetKind::Tap(name.to_owned())),
        ("bridge", "") => Err("no bridge is named; give bridge=NAME".to_owned()),
        ("bridge", name) => Ok(NetKind::Bridge(name.to_owned())),
        ("vhost-user", "") => Err("no socket is named; give vhost-user=SOCKET".to_owned()),
        ("vhost-user", socket) => Ok(NetKind::VhostUser(socket.to_owned())),
        _ => Err(format!(
            "'{text}' is no network; give user, tap=NAME, bridge=NAME, vhost-user=SOCKET or none"
        )),
    }
}

fn mac(text: &str) -> Result<[u8; 6], String> {
    let wrong = || format!("'{text}' is no address of a network interface; give one like 02:00:00:00:00:01");
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|part| u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2 && !part.starts_with('+')))
        .collect();
    let mac: [u8; 6] = bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(wrong)?;
    match mac {
        [first, ..] if first & 1 != 0 => {
            Err(format!("'{text}' is a group's address; give an even first byte"))
        }
        [0, 0, 0, 0, 0, 0] => Err(wrong()),
        mac => Ok(mac),
    }
}

fn mtu(text: &str) -> Result<u16, String> {
    let mtu = text.parse().ok().filter(|mtu| *mtu >= MIN_MTU);
    mtu.ok_or_else(|| format!("'{text}' is no MTU; give a number of bytes from {MIN_MTU} to {}", u16::MAX))
}

fn queues(text: &str) -> Result<usize, String> {
    let queues = text.parse().ok().filter(|queues| (1..=MAX_NETWORK_QUEUES).contains(queues));
    queues.ok_or_else(|| format!("'{text}' is no number of queues; give one from 1 to {MAX_NETWORK_QUEUES}"))
}

/// An address with the bits of its network's prefix.
fn network(text: &str) -> Result<(IpAddr, u8), String> {
    let parts = text.split_once('/').and_then(|(ip, bits)| Some((ip.parse().ok()?, bits.parse().ok()?)));
    let most = |ip: IpAddr| if ip.is_ipv4() { 32 } else { 128 };
    let network = parts.filter(|(ip, bits): &(IpAddr, u8)| *bits <= most(*ip));
    network.ok_or_else(|| format!("'{text}' is no address; give one like 10.0.0.2/24"))
}

fn address(option: &str, text: &str) -> Result<IpAddr, String> {
    IpAddr::from_str(text).map_err(|_| format!("'{text}' is no address; give one like {option}=10.0.0.1"))
}

/// Reads `--publish`: `[HOST:]PORT:PORT[/udp]`, where an address of IPv6 is in brackets.
pub(super) fn publish(text: &str) -> Result<Publish, String> {
    let wrong =
        || format!("'{text}' names no ports; give HOSTPORT:GUESTPORT, like 8080:80 or 0.0.0.0:5353:53/udp");
    let (ports, protocol) = match text.split_once('/') {
        None | Some((_, "tcp")) => (text.split('/').next().unwrap_or_default(), Protocol::Tcp),
        Some((ports, "udp")) => (ports, Protocol::Udp),
        Some(_) => return Err(wrong()),
    };
    let port = |text: &str| text.parse().ok().filter(|port: &u16| *port != 0 && !text.starts_with('+'));
    let (rest, guest) = ports.rsplit_once(':').ok_or_else(wrong)?;
    let guest_port = port(guest).ok_or_else(wrong)?;
    let (host, host_port) = match rest.rsplit_once(':') {
        None => (None, rest),
        Some((host, host_port)) => {
            let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
            (Some(host.parse().map_err(|_| wrong())?), host_port)
        }
    };
    Ok(Publish { host, host_port: port(host_port).ok_or_else(wrong)?, guest_port, protocol })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_published_by_number() {
        let read = |text| {
            publish(text).map(|p| (p.host.map(|ip| ip.to_string()), p.host_port, p.guest_port, p.protocol))
        };
        assert_eq!(read("8080:80"), Ok((None, 8080, 80, Protocol::Tcp)));
        assert_eq!(read("0.0.0.0:53:53/udp"), Ok((Some("0.0.0.0".into()), 53, 53, Protocol::Udp)));
        assert_eq!(read("[::1]:53:54/tcp"), Ok((Some("::1".into()), 53, 54, Protocol::Tcp)));
        for bad in
            ["", "80", ":80", "80:", "0:80", "80:0", "70000:80", "host:80:80", "80:80/sctp", "80:80/udp/tcp"]
        {
            assert!(publish(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_network_is_a_kind_with_options() {
        let net = NetArg::parse(
            "tap=tap0,mac=02:00:00:00:00:0a,mtu=9000,queues=2,address=10.0.0.2/24,address=fd00::2/64,gateway=10.0.0.1,dns=10.0.0.1",
        )
        .expect("a network");
        assert_eq!(net.kind, NetKind::Tap("tap0".into()));
        assert_eq!((net.mac, net.mtu, net.queues), (Some([2, 0, 0, 0, 0, 10]), Some(9000), 2));
        assert_eq!((net.addresses.len(), net.addresses[0].1, net.gateways.len()), (2, 24, 1));
        assert_eq!(NetArg::parse("bridge=br0").expect("a network").kind, NetKind::Bridge("br0".into()));
        let socket = NetKind::VhostUser("/run/net".into());
        assert_eq!(NetArg::parse("vhost-user=/run/net").expect("a network").kind, socket);
        let limited = NetArg::parse("user,bps=1M,pps=500").expect("a network");
        assert_eq!((limited.bps, limited.pps), (NonZeroU64::new(1 << 20), NonZeroU64::new(500)));
        assert_eq!(NetArg::parse("none").expect("none").kind, NetKind::None);
        for bad in [
            "",
            "tap",
            "tap=",
            "bridge",
            "none=1",
            "none,mtu=1500",
            "user=1",
            "user,queues=2",
            "user,address=10.0.0.2/24",
            "vhost-user=",
            "vhost-user=/run/net,mtu=1500",
            "vhost-user=/run/net,queues=2",
            "wifi",
            "tap=a,mac=1",
            "tap=a,mac=01:00:00:00:00:00",
            "tap=a,mac=00:00:00:00:00:00",
            "tap=a,mac=02:00:00:00:00:+1",
            "tap=a,mtu=100",
            "tap=a,queues=0",
            "tap=a,queues=9",
            "tap=a,address=10.0.0.2",
            "tap=a,address=10.0.0.2/33",
            "tap=a,gateway=x",
            "tap=a,bps=0",
            "tap=a,pps=fast",
            "tap=a,colour=red",
        ] {
            assert!(NetArg::parse(bad).is_err(), "{bad}");
        }
    }
}
