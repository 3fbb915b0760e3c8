//! How much a guest may hold.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::thread;

use rustix::process::{Resource, getrlimit, setrlimit};
use smoltcp::socket::tcp::State;
use smoltcp::wire::TcpControl;

use super::{Guest, gateway, open, pattern};
use crate::config::Limits;
use crate::testing::packets::{Tcp, udp};
use crate::{Config, Offload, UserNet};

/// How many connections are open at once.
const MANY: u16 = 4000;
/// How many bytes each sends and gets back.
const EACH: usize = 600;
/// How many do not read what they are sent.
const IDLE: usize = 40;

#[test]
fn thousands_of_connections_at_once() {
    // Each has a descriptor on either side, and both sides are in this process.
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    let enough = files.maximum.is_none_or(|most| most > 2 * u64::from(MANY) + 100);
    if !enough || setrlimit(Resource::Nofile, files).is_err() {
        eprintln!("NOT TESTED: {MANY} connections at once: the limit of open files is {:?}", files.maximum);
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = gateway(listener.local_addr().unwrap());
    let server = thread::spawn(move || {
        let mut streams: Vec<_> = (0..MANY).map(|_| listener.accept().unwrap().0).collect();
        for stream in &mut streams {
            let mut data = [0; EACH];
            stream.read_exact(&mut data).unwrap();
            stream.write_all(&data).unwrap();
        }
        streams
    });
    let mut guest = Guest::new(open());
    let handles: Vec<_> = (0..MANY).map(|n| guest.connect(address, 10_000 + n, EACH)).collect();
    let data_of = |n: usize| pattern(EACH + n).split_off(n);
    let (mut asked, mut answered) = (vec![false; handles.len()], vec![false; handles.len()]);
    guest.until("all answers", |guest| {
        for (n, &handle) in handles.iter().enumerate() {
            let socket = guest.tcp(handle);
            if !asked[n] && socket.may_send() {
                asked[n] = socket.send_slice(&data_of(n)).unwrap() == EACH;
            }
            if socket.recv_queue() == EACH {
                let mut data = [0; EACH];
                socket.recv_slice(&mut data).unwrap();
                assert!(data == *data_of(n), "each has its own answer");
                answered[n] = true;
            }
        }
        answered.iter().all(|answered| *answered).then_some(())
    });
    assert_eq!(guest.net.connections(), usize::from(MANY));
    drop(server.join().unwrap());
    for &handle in &handles {
        guest.tcp(handle).close();
    }
    guest.until("no connection", |guest| (guest.net.connections() == 0).then_some(()));
}

#[test]
fn who_does_not_read_stops_nobody_else() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = gateway(listener.local_addr().unwrap());
    let limits = Limits { buffered: 512 << 10, ..Limits::default() };
    let mut guest = Guest::new(Config { limits, ..open() });
    let idle: Vec<_> = (0..IDLE).map(|n| guest.connected(address, 10_000 + n as u16, 4096)).collect();
    let mut senders: Vec<_> = (0..IDLE).map(|_| listener.accept().unwrap().0).collect();
    let data = pattern(256 << 10);
    for sender in &mut senders {
        sender.set_nonblocking(true).unwrap();
    }
    // Until nobody takes any more.
    let mut quiet = 0;
    while quiet < 50 {
        let taken = senders.iter_mut().filter_map(|sender| sender.write(&data).ok()).sum::<usize>();
        quiet = if taken == 0 { quiet + 1 } else { 0 };
        guest.step();
    }
    assert!(guest.net.buffered() <= limits.buffered + IDLE * (8 << 10), "{} bytes", guest.net.buffered());

    let handle = guest.connected(address, 40_000, 32 << 10);
    let (mut sender, _) = listener.accept().unwrap();
    let expected = data.clone();
    let sending = thread::spawn(move || sender.write_all(&data).unwrap());
    let mut received = Vec::new();
    guest.until("all of it past those who do not read", |guest| {
        let socket = guest.tcp(handle);
        while socket.can_recv() {
            let take = |part: &mut [u8]| (part.len(), received.extend_from_slice(part));
            socket.recv(take).unwrap();
        }
        (received.len() == expected.len()).then_some(())
    });
    assert!(received == expected);
    sending.join().unwrap();
    assert!(guest.net.buffered() <= limits.buffered + (IDLE + 1) * (8 << 10));
    idle.into_iter().for_each(|handle| guest.tcp(handle).abort());
    guest.until("all memory is given back", |guest| (guest.net.buffered() == 0).then_some(()));
}

#[test]
fn a_connection_too_many_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = gateway(listener.local_addr().unwrap());
    let limits = Limits { connections: 2, ..Limits::default() };
    let mut guest = Guest::new(Config { limits, ..open() });
    let first = guest.connected(address, 40_000, 1024);
    guest.connected(address, 40_001, 1024);
    let third = guest.connect(address, 40_002, 1024);
    guest.until("a refusal", |guest| (guest.tcp(third).state() == State::Closed).then_some(()));
    guest.tcp(first).abort();
    guest.until("room", |guest| (guest.net.connections() == 1).then_some(()));
    guest.connected(address, 40_003, 1024);
}

#[test]
fn flows_too_many_push_out_the_oldest() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = gateway(socket.local_addr().unwrap());
    let limits = Limits { flows: 8, ..Limits::default() };
    let mut net = UserNet::new(Config { limits, ..open() }).unwrap();
    let before = open_files();
    for port in 1..=150 {
        let from = SocketAddr::new(Config::default().ipv4.guest.into(), port);
        assert!(net.send(Offload::default(), &udp(from, to, b"x")));
    }
    assert!(open_files() < before + 100, "other tests run beside this one, yet not as many flows as that");
    for _ in 0..150 {
        socket.recv(&mut [0]).unwrap();
    }
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn replies_that_nobody_takes_stop_the_guest() {
    let mut net = UserNet::new(Config::default()).unwrap();
    let to = SocketAddr::new(Config::default().ipv4.gateway.into(), 22);
    let refused = |port| {
        let from = SocketAddr::new(Config::default().ipv4.guest.into(), port);
        let control = TcpControl::Syn;
        Tcp { from, to, seq: 1, ack: None, control, window: 100, payload: &[] }.frame()
    };
    let taken = (1..10_000).take_while(|port| net.send(Offload::default(), &refused(*port))).count();
    assert!(taken < 5000);
    let mut frame = Vec::new();
    assert!(net.receive(&mut frame).is_some());
    assert!(net.send(Offload::default(), &refused(1)), "there is room for another");
    while net.receive(&mut frame).is_some() {}
}
