//! `--net`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use viv_vmm::config::{MAX_NETWORK_QUEUES, MIN_MTU};

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
}

/// What a network interface is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetKind {
    /// There is no interface.
    None,
    /// A tap interface of the host.
    Tap(String),
    /// A bridge of the host.
    Bridge(String),
}

impl fmt::Display for NetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Tap(name) => write!(f, "tap={name}"),
            Self::Bridge(name) => write!(f, "bridge={name}"),
        }
    }
}

impl NetArg {
    /// Reads a kind with options behind commas.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let mut net = Self {
            kind: kind(parts.next().unwrap_or_default())?,
            mac: None,
            mtu: None,
            queues: 1,
            addresses: Vec::new(),
            gateways: Vec::new(),
            name_servers: Vec::new(),
        };
        for part in parts {
            let (option, value) = part.split_once('=').unwrap_or((part, ""));
            match option {
                "mac" => net.mac = Some(mac(value)?),
                "mtu" => net.mtu = Some(mtu(value)?),
                "queues" => net.queues = queues(value)?,
                "address" => net.addresses.push(network(value)?),
                "gateway" => net.gateways.push(address(option, value)?),
                "dns" => net.name_servers.push(address(option, value)?),
                _ => {
                    return Err(format!(
                        "the option '{option}' is not known; 'mac', 'mtu', 'queues', 'address', 'gateway' and 'dns' are"
                    ));
                }
            }
        }
        if net.kind == NetKind::None && text != "none" {
            return Err("there are no options for no interface".to_owned());
        }
        Ok(net)
    }
}

fn kind(text: &str) -> Result<NetKind, String> {
    let (kind, name) = text.split_once('=').unwrap_or((text, ""));
    match (kind, name) {
        ("none", "") => Ok(NetKind::None),
        ("tap", name @ ("" | "%d")) => Err(format!("'tap={name}' names no interface; give tap=NAME")),
        ("tap", name) => Ok(NetKind::Tap(name.to_owned())),
        ("bridge", "") => Err("no bridge is named; give bridge=NAME".to_owned()),
        ("bridge", name) => Ok(NetKind::Bridge(name.to_owned())),
        _ => Err(format!("'{text}' is no network; give none, tap=NAME or bridge=NAME")),
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
        [first, ..] if first & 1 != 0 => Err(format!("'{text}' is a group's address; give an even first byte")),
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

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(NetArg::parse("none").expect("none").kind, NetKind::None);
        for bad in [
            "",
            "tap",
            "tap=",
            "bridge",
            "none=1",
            "none,mtu=1500",
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
            "tap=a,colour=red",
        ] {
            assert!(NetArg::parse(bad).is_err(), "{bad}");
        }
    }
}
