//! Connections of a guest that was saved and restored.

use std::io::Write;
use std::net::{TcpListener, TcpStream};

use smoltcp::socket::tcp::State;

use super::{Guest, gateway, open};
use crate::config::{Limits, Protocol, Publish};
use crate::testing::packets::tcp;
use crate::{Config, Offload, UserNet};

impl Guest {
    /// The guest goes on with another router.
    fn is_restored(&mut self, config: Config) {
        let saved = self.net.save();
        self.net = UserNet::new(config).unwrap();
        self.net.restore(saved);
    }
}

#[test]
fn connections_are_reset_without_the_guest_doing_anything() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = gateway(listener.local_addr().unwrap());
    let mut guest = Guest::new(open());
    let silent = guest.connected(address, 40_000, 1024);
    let heard = guest.connected(address, 40_001, 1024);
    let closing = guest.connected(address, 40_002, 1024);
    let mut streams: Vec<TcpStream> = (0..3).map(|_| listener.accept().unwrap().0).collect();
    streams[1].write_all(b"hello").unwrap();
    guest.until("data", |guest| (guest.tcp(heard).recv_queue() == 5).then_some(()));
    guest.tcp(heard).send_slice(b"answer").unwrap();
    guest.tcp(closing).close();
    guest.until("half an end", |guest| (guest.tcp(closing).state() == State::FinWait2).then_some(()));

    guest.is_restored(open());
    let all = [silent, heard, closing];
    guest.until("resets", |guest| {
        all.iter().all(|&handle| guest.tcp(handle).state() == State::Closed).then_some(())
    });
    let again = guest.connected(address, 40_000, 1024);
    assert_eq!(guest.net.connections(), 1, "the new router takes new ones");
    guest.tcp(again).abort();
}

#[test]
fn connections_to_the_guest_are_reset_too() {
    let publish = Publish { host: None, host_port: 0, guest_port: 80, protocol: Protocol::Tcp };
    let config = Config { publish: vec![publish], ..Config::default() };
    let mut guest = Guest::new(config.clone());
    let handle = guest.tcp_socket(1024);
    guest.tcp(handle).listen(80).unwrap();
    guest.net.send(Offload::default(), &crate::testing::packets::arp_request());
    let (_, at) = guest.net.published().next().unwrap();
    let _stream = TcpStream::connect(at).unwrap();
    guest.until("a caller", |guest| (guest.tcp(handle).state() == State::Established).then_some(()));
    guest.is_restored(config);
    guest.until("a reset", |guest| (guest.tcp(handle).state() == State::Closed).then_some(()));
}

#[test]
fn a_snapshot_names_no_more_connections_than_there_may_be() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = gateway(listener.local_addr().unwrap());
    let mut guest = Guest::new(open());
    for port in 40_000..40_010 {
        guest.connected(address, port, 64);
    }
    let saved = guest.net.save();
    let limits = Limits { connections: 4, ..Limits::default() };
    let mut net = UserNet::new(Config { limits, ..open() }).unwrap();
    net.restore(saved);
    let mut frame = Vec::new();
    let mut resets = 0;
    while net.receive(&mut frame).is_some() {
        resets += usize::from(tcp(&frame).is_some_and(|segment| segment.rst()));
    }
    assert_eq!(resets, 4);
    net.reset();
    assert!(net.receive(&mut frame).is_none());
}
