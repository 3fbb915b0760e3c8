//! UDP, DNS and echo requests of the guest's.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;

use smoltcp::iface::SocketHandle;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::icmp;
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv4Packet};

use super::{Guest, gateway, open, pattern};
use crate::resolvers::Resolvers;
use crate::{Config, Offload};

/// A server that answers each datagram with another twice as long, until it gets an empty one.
fn doubler(at: &str) -> (SocketAddr, thread::JoinHandle<()>) {
    let socket = UdpSocket::bind(at).unwrap();
    let address = socket.local_addr().unwrap();
    let server = thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let (length, peer) = socket.recv_from(&mut buffer).unwrap();
            if length == 0 {
                return;
            }
            socket.send_to(&buffer[..length].repeat(2), peer).unwrap();
        }
    });
    (address, server)
}

fn doubled(at: &str) {
    let (address, server) = doubler(at);
    let mut guest = Guest::new(open());
    let handle = guest.udp_socket(5000);
    guest.udp(handle).send_slice(b"ab", gateway(address)).unwrap();
    assert_eq!(guest.datagram(handle), (b"abab".to_vec(), gateway(address)));
    // As large as fits one way, and in pieces the other way.
    let data = pattern(1400);
    guest.udp(handle).send_slice(&data, gateway(address)).unwrap();
    if address.is_ipv4() {
        let pieces = pieces(&mut guest, 2);
        assert_eq!(pieces.len(), 2 * data.len() + 8);
        assert!(pieces[8..] == data.repeat(2));
    }
    guest.udp(handle).send_slice(b"", gateway(address)).unwrap();
    guest.step();
    server.join().unwrap();
}

/// The payload of a packet that comes in so many pieces.
fn pieces(guest: &mut Guest, count: usize) -> Vec<u8> {
    guest.step();
    let mut all: Vec<(usize, Vec<u8>)> = Vec::new();
    while all.len() < count {
        all.push(guest.frame("a piece", |frame| {
            let packet = Ipv4Packet::new_checked(&frame[14..]).unwrap();
            assert!(packet.verify_checksum());
            (packet.next_header() == IpProtocol::Udp)
                .then(|| (usize::from(packet.frag_offset()), packet.payload().to_vec()))
        }));
    }
    all.sort();
    all.into_iter().flat_map(|(_, piece)| piece).collect()
}

#[test]
fn datagrams_go_both_ways() {
    doubled("127.0.0.1:0");
}

#[test]
fn datagrams_go_both_ways_over_ipv6() {
    if UdpSocket::bind("[::1]:0").is_err() {
        eprintln!("NOT TESTED: datagrams over IPv6: the host has no ::1");
        return;
    }
    doubled("[::1]:0");
}

#[test]
fn datagrams_come_from_their_peer_alone() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut guest = Guest::new(open());
    let handle = guest.udp_socket(5000);
    guest.udp(handle).send_slice(b"hello", gateway(socket.local_addr().unwrap())).unwrap();
    socket.set_nonblocking(true).unwrap();
    let peer = guest.until("a datagram", |_| Some(socket.recv_from(&mut [0; 16]).ok()?.1));
    stranger.send_to(b"intruder", peer).unwrap();
    socket.send_to(b"friend", peer).unwrap();
    assert_eq!(guest.datagram(handle).0, b"friend");
}

#[test]
fn a_refused_datagram_is_told() {
    let address = gateway(refusing());
    let mut guest = Guest::new(open());
    let handle = guest.udp_socket(5000);
    guest.udp(handle).send_slice(b"hello?", address).unwrap();
    guest.step();
    guest.step();
    let ports = guest.frame("a refusal", |frame| {
        let packet = Ipv4Packet::new_checked(&frame[14..]).ok()?;
        if packet.next_header() != IpProtocol::Icmp {
            return None;
        }
        let icmp = Icmpv4Packet::new_checked(packet.payload()).unwrap();
        match Icmpv4Repr::parse(&icmp, &Default::default()).unwrap() {
            Icmpv4Repr::DstUnreachable { header, data, .. } => {
                assert_eq!(header.dst_addr, Config::default().ipv4.gateway);
                Some((u16::from_be_bytes([data[0], data[1]]), u16::from_be_bytes([data[2], data[3]])))
            }
            other => panic!("{other:?}"),
        }
    });
    assert_eq!(ports, (5000, address.port()));
}

pub(super) const QUERY: &[u8] = b"\xAB\xCD\x01\0\0\x01\0\0\0\0\0\0\x04host\x07example\0\0\x01\0\x01";

/// Where nobody listens, which a host says at once.
pub(super) fn refusing() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").and_then(|gone| gone.local_addr()).unwrap()
}

pub(super) fn dns() -> SocketAddr {
    (Config::default().ipv4.dns, 53).into()
}

#[test]
fn questions_go_to_the_next_server_when_one_refuses() {
    let refusing = refusing();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut guest = Guest::new(Config::default());
    guest.net.core_mut().resolvers = Resolvers::of(vec![refusing, socket.local_addr().unwrap()]);
    let handle = guest.udp_socket(5000);
    guest.udp(handle).send_slice(QUERY, dns()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let (question, peer) = guest.until("a question", |_| {
        let mut buffer = [0; 512];
        let (length, peer) = socket.recv_from(&mut buffer).ok()?;
        Some((buffer[..length].to_vec(), peer))
    });
    assert_eq!(question, QUERY);
    socket.send_to(b"\xAB\xCDanswer", peer).unwrap();
    assert_eq!(guest.datagram(handle), (b"\xAB\xCDanswer".to_vec(), dns()));
}

#[test]
fn a_question_that_no_server_takes_fails() {
    let refusing = refusing();
    let mut guest = Guest::new(Config::default());
    guest.net.core_mut().resolvers = Resolvers::of(vec![refusing]);
    let handle = guest.udp_socket(5000);
    guest.udp(handle).send_slice(QUERY, dns()).unwrap();
    let (answer, from) = guest.datagram(handle);
    assert_eq!((answer[..2].to_vec(), answer[3] & 15, from), (QUERY[..2].to_vec(), 2, dns()));
}

const SAID: &[u8] = b"anyone there";

/// Sends an echo request.
fn ask(guest: &mut Guest, to: IpAddr) -> SocketHandle {
    let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 1024]);
    let mut socket = icmp::Socket::new(buffer(), buffer());
    socket.bind(icmp::Endpoint::Ident(77)).unwrap();
    let sums = ChecksumCapabilities::default();
    match to {
        IpAddr::V4(_) => {
            let request = Icmpv4Repr::EchoRequest { ident: 77, seq_no: 1, data: SAID };
            let room = socket.send(request.buffer_len(), to.into()).unwrap();
            request.emit(&mut Icmpv4Packet::new_unchecked(room), &sums);
        }
        IpAddr::V6(v6) => {
            let request = Icmpv6Repr::EchoRequest { ident: 77, seq_no: 1, data: SAID };
            let room = socket.send(request.buffer_len(), to.into()).unwrap();
            request.emit(&super::guest_v6(), &v6, &mut Icmpv6Packet::new_unchecked(room), &sums);
        }
    }
    guest.sockets.add(socket)
}

/// Sends an echo request and waits for its reply.
fn ping(guest: &mut Guest, to: IpAddr) {
    let handle = ask(guest, to);
    let (data, from) = guest.until("a reply", |guest| {
        let (data, from) = guest.sockets.get_mut::<icmp::Socket<'_>>(handle).recv().ok()?;
        Some((data.to_vec(), from))
    });
    assert!([0, 129].contains(&data[0]), "it is a reply");
    assert_eq!((&data[8..], from), (SAID, to.into()));
}

#[test]
fn the_router_and_the_name_server_answer_echo_requests() {
    let mut guest = Guest::new(Config::default());
    let (v4, v6) = (Config::default().ipv4, Config::default().ipv6.unwrap());
    for to in [v4.gateway.into(), v4.dns.into(), v6.gateway.into(), v6.dns.into()] {
        ping(&mut guest, to);
    }
}

#[test]
fn echo_requests_go_to_the_world_where_the_host_allows_it() {
    // An address of the host's that is not the loopback's.
    let probe = UdpSocket::bind("0.0.0.0:0").unwrap();
    let own = probe.connect("192.0.2.1:9").and_then(|()| probe.local_addr());
    let Ok(own) = own.map(|address| address.ip()) else {
        eprintln!("NOT TESTED: echo requests: the host has no way to anywhere");
        return;
    };
    let mut guest = Guest::new(open());
    if crate::host::connect_echo(own).is_ok() {
        return ping(&mut guest, own);
    }
    eprintln!("NOT TESTED: replies to echo requests: net.ipv4.ping_group_range forbids them");
    ask(&mut guest, own);
    guest.step();
    guest.step();
    assert_eq!(unreachable_code(&mut guest), 13, "the guest is told that it may not");
}

/// Waits for a message that something does not arrive: why that is.
fn unreachable_code(guest: &mut Guest) -> u8 {
    guest.card.from_guest.drain(..).for_each(|frame| {
        guest.net.send(Offload::default(), &frame);
    });
    guest.frame("a refusal", |frame| {
        let packet = Ipv4Packet::new_checked(&frame[14..]).ok()?;
        let is_icmp = packet.next_header() == IpProtocol::Icmp && packet.payload()[0] == 3;
        is_icmp.then(|| packet.payload()[1])
    })
}
