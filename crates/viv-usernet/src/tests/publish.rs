//! Ports of the host that lead to the guest.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::thread;

use smoltcp::socket::tcp::State;

use super::{Guest, gateway, open};
use crate::{Config, Error, Limits, Offload, Protocol, Publish, UserNet};

fn published(protocol: Protocol) -> Config {
    let publish = Publish { host: None, host_port: 0, guest_port: 8080, protocol };
    Config { publish: vec![publish], ..Config::default() }
}

#[test]
fn connections_come_in() {
    let mut guest = Guest::new(published(Protocol::Tcp));
    let addresses: Vec<_> = guest.net.published().map(|(_, address)| address).collect();
    for address in addresses {
        assert!(address.ip().is_loopback() && address.port() != 0);
        let handle = guest.tcp_socket(4096);
        guest.tcp(handle).listen(8080).unwrap();
        let client = thread::spawn(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(b"anyone?").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        });
        // A card that is there says so.
        guest.step();
        guest.net.send(Offload::default(), &crate::testing::packets::arp_request());
        let heard = guest.until("a call", |guest| {
            let socket = guest.tcp(handle);
            let heard = socket.recv(|data| (data.len(), data.to_vec())).ok()?;
            (!heard.is_empty()).then_some(heard)
        });
        assert_eq!(heard, b"anyone?");
        let peer = guest.tcp(handle).remote_endpoint().unwrap();
        assert_eq!(IpAddr::from(peer.addr), Config::default().ipv4.gateway);
        guest.tcp(handle).send_slice(b"the guest").unwrap();
        guest.tcp(handle).close();
        guest.until("the client", |_| client.is_finished().then_some(()));
        assert_eq!(client.join().unwrap(), "the guest");
    }
}

#[test]
fn a_call_that_the_guest_refuses_is_ended() {
    let mut guest = Guest::new(published(Protocol::Tcp));
    let (_, address) = guest.net.published().next().unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    guest.net.send(Offload::default(), &crate::testing::packets::arp_request());
    let client = thread::spawn(move || stream.read(&mut [0]));
    guest.until("the client", |_| client.is_finished().then_some(()));
    assert!(client.join().unwrap().is_err(), "the guest has no such port");
    assert_eq!(guest.net.connections(), 0);
}

#[test]
fn datagrams_come_in_and_are_answered() {
    let mut guest = Guest::new(published(Protocol::Udp));
    let (_, address) = guest.net.published().next().unwrap();
    let client = UdpSocket::bind((address.ip(), 0)).unwrap();
    client.set_nonblocking(true).unwrap();
    let handle = guest.udp_socket(8080);
    client.send_to(b"ping", address).unwrap();
    guest.net.send(Offload::default(), &crate::testing::packets::arp_request());
    let (data, from) = guest.datagram(handle);
    assert_eq!(data, b"ping");
    let port = client.local_addr().unwrap().port();
    assert_eq!(from, SocketAddr::new(Config::default().ipv4.gateway.into(), port));
    guest.udp(handle).send_slice(b"pong", from).unwrap();
    let answer = guest.until("an answer", |_| {
        let mut buffer = [0; 16];
        let (length, from) = client.recv_from(&mut buffer).ok()?;
        Some((buffer[..length].to_vec(), from))
    });
    assert_eq!(answer, (b"pong".to_vec(), address));
}

#[test]
fn whoever_sends_to_a_port_takes_no_flow_from_the_guest() {
    let limits = Limits { flows: 4, ..Limits::default() };
    let mut guest = Guest::new(Config { limits, host_access: true, ..published(Protocol::Udp) });
    let (_, address) = guest.net.published().next().unwrap();
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_nonblocking(true).unwrap();
    let own = guest.udp_socket(5000);
    guest.udp(own).send_slice(b"hello", gateway(server.local_addr().unwrap())).unwrap();
    let peer = guest.until("the guest's word", |_| server.recv_from(&mut [0; 16]).ok()).1;
    let handle = guest.udp_socket(8080);
    for _ in 0..10 {
        UdpSocket::bind((address.ip(), 0)).unwrap().send_to(b"ping", address).unwrap();
        assert_eq!(guest.datagram(handle).0, b"ping");
    }
    server.send_to(b"answer", peer).unwrap();
    assert_eq!(guest.datagram(own).0, b"answer");
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let publish = Publish { host: None, host_port: port, guest_port: 22, protocol: Protocol::Tcp };
    let error = UserNet::new(Config { publish: vec![publish], ..open() }).unwrap_err();
    assert!(matches!(error, Error::Publish { .. }));
    let text = format!("cannot publish TCP port 127.0.0.1:{port} of the host: ");
    assert!(error.to_string().starts_with(&text), "{error}");
    assert!(error.to_string().ends_with("; choose another port"), "{error}");
}

#[test]
fn a_guest_that_was_reset_is_forgotten() {
    let mut guest = Guest::new(published(Protocol::Tcp));
    let (_, address) = guest.net.published().next().unwrap();
    let handle = guest.tcp_socket(4096);
    guest.tcp(handle).listen(8080).unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    guest.net.send(Offload::default(), &crate::testing::packets::arp_request());
    guest.until("a call", |guest| (guest.tcp(handle).state() == State::Established).then_some(()));
    guest.net.reset();
    assert_eq!(guest.net.connections(), 0);
    assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
    assert!(TcpStream::connect(address).is_ok(), "the port is still published");
}
