//! What the guest may reach, and what frames it gets answers to.

use std::net::{SocketAddr, TcpListener, UdpSocket};

use smoltcp::socket::tcp::State;

use super::{Guest, MAC, open};
use crate::core::Core;
use crate::policy::{Way, way};
use crate::testing::packets::arp_request;
use crate::{Config, Offload};

#[test]
fn the_host_itself_is_out_of_reach_by_any_name() {
    let core = Core::new(Config::default()).unwrap();
    for address in [
        "127.0.0.1:22",
        "127.255.255.254:22",
        "0.0.0.0:22",
        "0.1.2.3:22",
        "10.0.2.2:22",
        "10.0.2.3:22",
        "10.0.2.15:22",
        "10.0.2.77:22",
        "169.254.169.254:80",
        "240.0.0.1:22",
        "[::]:22",
        "[::1]:22",
        "[::ffff:127.0.0.1]:22",
        "[::ffff:192.0.2.1]:22",
        "[::127.0.0.1]:22",
        "[fe80::1]:22",
        "[fd76:6976:6172::2]:22",
        "[fd76:6976:6172::3]:22",
        "[fd76:6976:6172::77]:22",
    ] {
        assert_eq!(way(&core, address.parse().unwrap()), Way::Refused, "{address}");
    }
    for address in ["224.0.0.1:22", "255.255.255.255:22", "10.0.2.255:22", "[ff02::1]:22"] {
        assert_eq!(way(&core, address.parse().unwrap()), Way::Silent, "{address}");
    }
    for address in ["192.88.99.1:22", "[2001:db8::1]:22"] {
        let address = address.parse().unwrap();
        assert_eq!(way(&core, address), Way::Host(address));
    }
    for address in ["10.0.2.3:53", "[fd76:6976:6172::3]:53"] {
        assert_eq!(way(&core, address.parse().unwrap()), Way::Dns);
    }
}

#[test]
fn the_host_is_reached_when_it_is_allowed() {
    let core = Core::new(open()).unwrap();
    let to = |address: &str| way(&core, address.parse().unwrap());
    assert_eq!(to("10.0.2.2:22"), Way::Host("127.0.0.1:22".parse().unwrap()));
    assert_eq!(to("[fd76:6976:6172::2]:22"), Way::Host("[::1]:22".parse().unwrap()));
    assert_eq!(to("127.0.0.1:22"), Way::Refused, "by that name it is the guest itself");
}

#[test]
fn a_restricted_guest_reaches_its_own_network_alone() {
    let core = Core::new(Config { restricted: true, ..Config::default() }).unwrap();
    for address in ["192.88.99.1:22", "[2001:db8::1]:22", "10.0.2.2:22", "10.0.2.3:53"] {
        assert_eq!(way(&core, address.parse().unwrap()), Way::Refused, "{address}");
    }
    let core = Core::new(Config { restricted: true, ..open() }).unwrap();
    let loopback = Way::Host("127.0.0.1:22".parse().unwrap());
    assert_eq!(way(&core, "10.0.2.2:22".parse().unwrap()), loopback);
    assert_eq!(way(&core, "192.88.99.1:22".parse().unwrap()), Way::Refused);
}

#[test]
fn the_hosts_own_addresses_are_out_of_reach() {
    let probe = UdpSocket::bind("0.0.0.0:0").unwrap();
    let Ok(own) = probe.connect("192.0.2.1:9").and_then(|()| probe.local_addr()) else {
        eprintln!("NOT TESTED: the host's own addresses: it has no way to anywhere");
        return;
    };
    let listener = TcpListener::bind((own.ip(), 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let mut guest = Guest::new(Config::default());
    let handle = guest.connect(address, 40_000, 1024);
    guest.until("a refusal", |guest| (guest.tcp(handle).state() == State::Closed).then_some(()));
    assert!(listener.accept().is_err(), "nobody came");

    let mut guest = Guest::new(open());
    guest.connected(address, 40_000, 1024);
    listener.accept().unwrap();
}

#[test]
fn frames_for_others_are_no_concern() {
    let mut guest = Guest::new(Config::default());
    let mut frame = arp_request();
    frame[0..6].copy_from_slice(&[0x52, 0x54, 0, 9, 9, 9]);
    guest.net.send(Offload::default(), &frame);
    assert_eq!(guest.net.receive(&mut Vec::new()), None);
    guest.net.send(Offload::default(), &arp_request());
    let mut reply = Vec::new();
    assert_eq!(guest.net.receive(&mut reply), Some(Offload::default()));
    assert_eq!((&reply[..6], &reply[6..12]), (&MAC.0[..], &Config::default().gateway_mac[..]));
}

#[test]
fn what_makes_no_network_is_said() {
    use crate::{Ipv4Network, UserNet};
    let says = |config: Config| UserNet::new(config).unwrap_err().to_string();
    let config = Config::default();
    assert!(says(Config { mtu: 100, ..config.clone() }).contains("an MTU of 100 bytes"));
    assert!(says(Config { hostname: Some("-x".into()), ..config.clone() }).contains("\"-x\""));
    assert!(says(Config { gateway_mac: [1; 6], ..config.clone() }).contains("01-01-01-01-01-01"));
    let ipv4 = Ipv4Network { dns: "192.0.2.1".parse().unwrap(), ..config.ipv4 };
    assert!(says(Config { ipv4, ..config.clone() }).contains("DNS 192.0.2.1"));
    let ipv4 = Ipv4Network { prefix: 32, ..config.ipv4 };
    assert!(says(Config { ipv4, ..config }).contains("32 bits"));
}
