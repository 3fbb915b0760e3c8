//! TCP connections of the guest's.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;

use super::{Card, Guest, gateway, open, pattern};

const LENGTH: usize = 3 << 20;

fn listener(at: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(at).unwrap();
    let address = gateway(listener.local_addr().unwrap());
    (listener, address)
}

/// Sends and receives until all is sent and so many bytes are received.
fn exchange(guest: &mut Guest, handle: SocketHandle, data: &[u8], expected: usize) -> Vec<u8> {
    let (mut sent, mut received) = (0, Vec::new());
    guest.until("an exchange of data", |guest| {
        let socket = guest.tcp(handle);
        if sent < data.len() && socket.can_send() {
            sent += socket.send_slice(&data[sent..]).unwrap();
        }
        receive(guest, handle, &mut received);
        (sent == data.len() && received.len() >= expected).then_some(())
    });
    received
}

fn echo(at: &str) {
    let (listener, address) = listener(at);
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut reader = stream.try_clone().unwrap();
        std::io::copy(&mut reader, &mut stream).unwrap()
    });
    let mut guest = Guest::new(open());
    let handle = guest.connected(address, 40_000, 64 << 10);
    let data = pattern(LENGTH);
    assert!(exchange(&mut guest, handle, &data, LENGTH) == data, "what came back is what was sent");
    guest.tcp(handle).close();
    guest.until("the end", |guest| (!guest.tcp(handle).is_open()).then_some(()));
    assert_eq!(server.join().unwrap(), LENGTH as u64);
    assert_eq!(guest.net.connections(), 0);
}

#[test]
fn data_goes_both_ways() {
    echo("127.0.0.1:0");
}

#[test]
fn data_goes_both_ways_over_ipv6() {
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("NOT TESTED: connections over IPv6: the host has no ::1");
        return;
    }
    echo("[::1]:0");
}

#[test]
fn a_refused_connection_is_refused() {
    let (listener, address) = listener("127.0.0.1:0");
    drop(listener);
    let mut guest = Guest::new(open());
    let handle = guest.connect(address, 40_000, 1024);
    guest.until("a refusal", |guest| (guest.tcp(handle).state() == State::Closed).then_some(()));
    assert_eq!(guest.net.connections(), 0);
}

#[test]
fn each_direction_ends_by_itself() {
    let (listener, address) = listener("127.0.0.1:0");
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).unwrap();
        stream.write_all(&pattern(300_000)).unwrap();
        heard
    });
    let mut guest = Guest::new(open());
    let handle = guest.connected(address, 40_000, 16 << 10);
    exchange(&mut guest, handle, b"that is all", 0);
    guest.tcp(handle).close();
    let answer = exchange(&mut guest, handle, &[], 300_000);
    assert!(answer == pattern(300_000));
    assert_eq!(server.join().unwrap(), b"that is all");
    guest.until("the end", |guest| (!guest.tcp(handle).may_recv()).then_some(()));
    guest.until("no connection", |guest| (guest.net.connections() == 0).then_some(()));
}

#[test]
fn the_other_end_ends_first() {
    let (listener, address) = listener("127.0.0.1:0");
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"bye").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).unwrap();
        heard
    });
    let mut guest = Guest::new(open());
    let handle = guest.connected(address, 40_000, 16 << 10);
    assert_eq!(exchange(&mut guest, handle, &[], 3), b"bye");
    guest.until("the end", |guest| (guest.tcp(handle).state() == State::CloseWait).then_some(()));
    exchange(&mut guest, handle, b"one more thing", 0);
    guest.tcp(handle).close();
    guest.until("no connection", |guest| (guest.net.connections() == 0).then_some(()));
    assert_eq!(server.join().unwrap(), b"one more thing");
}

#[test]
fn a_reset_reaches_the_other_end() {
    let (listener, address) = listener("127.0.0.1:0");
    let mut guest = Guest::new(open());
    let handle = guest.connected(address, 40_000, 1024);
    let (mut stream, _) = listener.accept().unwrap();
    guest.tcp(handle).abort();
    guest.until("no connection", |guest| (guest.net.connections() == 0).then_some(()));
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);

    let handle = guest.connected(address, 40_001, 1024);
    let (stream, _) = listener.accept().unwrap();
    rustix::net::sockopt::set_socket_linger(&stream, Some(std::time::Duration::ZERO)).unwrap();
    drop(stream);
    guest.until("a reset", |guest| (guest.tcp(handle).state() == State::Closed).then_some(()));
    assert_eq!(guest.net.connections(), 0);
}

/// Sends until nothing more is taken: how much that was.
fn fill(stream: &mut TcpStream, guest: &mut Guest, data: &[u8]) -> usize {
    stream.set_nonblocking(true).unwrap();
    let (mut sent, mut idle) = (0, 0);
    while idle < 200 {
        match stream.write(&data[sent..]) {
            Ok(length) => (sent, idle) = (sent + length, 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => idle += 1,
            Err(error) => panic!("{error}"),
        }
        guest.step();
    }
    stream.set_nonblocking(false).unwrap();
    sent
}

#[test]
fn a_guest_that_does_not_read_holds_the_sender_back() {
    let (listener, address) = listener("127.0.0.1:0");
    let mut guest = Guest::new(open());
    let handle = guest.connected(address, 40_000, 16 << 10);
    let (mut stream, _) = listener.accept().unwrap();
    let data = pattern(64 << 20);
    let sent = fill(&mut stream, &mut guest, &data);
    assert!(sent < data.len(), "all of it was taken");
    let received = exchange(&mut guest, handle, &[], sent);
    assert!(received == data[..sent], "what was held back arrives");
}

#[test]
fn a_host_that_does_not_read_holds_the_guest_back() {
    let (listener, address) = listener("127.0.0.1:0");
    let mut guest = Guest::new(open());
    let handle = guest.connected(address, 40_000, 64 << 10);
    let (mut stream, _) = listener.accept().unwrap();
    let data = pattern(64 << 20);
    let (mut sent, mut idle) = (0, 0);
    while idle < 200 {
        let more = guest.tcp(handle).send_slice(&data[sent..]).unwrap();
        (sent, idle) = (sent + more, if more == 0 { idle + 1 } else { 0 });
        guest.step();
    }
    assert!(sent < data.len(), "all of it was taken");
    let expected = data[..sent].to_vec();
    let reader = thread::spawn(move || {
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).unwrap();
        heard
    });
    guest.tcp(handle).close();
    guest.until("the reader", |_| reader.is_finished().then_some(()));
    assert!(reader.join().unwrap() == expected, "what was held back arrives");
}

#[test]
fn frames_that_are_lost_are_sent_again() {
    let (listener, address) = listener("127.0.0.1:0");
    let mut guest = Guest::new(open());
    let handle = guest.connected(address, 40_000, 32 << 10);
    let (mut stream, _) = listener.accept().unwrap();
    let data = pattern(400_000);
    let expected = data.clone();
    let sender = thread::spawn(move || stream.write_all(&data));
    let (mut received, mut count) = (Vec::<u8>::new(), 0_u32);
    // One frame of 50 is lost on its way to the guest.
    let lossy = |card: &mut Card, frame: &[u8]| {
        count += 1;
        if !count.is_multiple_of(50) {
            card.to_guest.push_back(frame.to_vec());
        }
    };
    guest.until_with("data past losses", lossy, |guest| {
        receive(guest, handle, &mut received);
        (received.len() >= expected.len()).then_some(())
    });
    assert!(received == expected);
    sender.join().unwrap().unwrap();
}

#[test]
fn the_last_frame_is_sent_again_though_what_came_before_it_arrived() {
    let (listener, address) = listener("127.0.0.1:0");
    let mut guest = Guest::new(open());
    let handle = guest.connected(address, 40_000, 32 << 10);
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(b"head").unwrap();
    // The first frame is delivered once the second is under way, which is lost.
    let (mut head, mut lost) = (None, false);
    let hand_on = |card: &mut Card, frame: &[u8]| {
        if !lost && frame.ends_with(b"head") {
            head = Some(frame.to_vec());
            stream.write_all(b"tail").unwrap();
        } else if !lost && frame.ends_with(b"tail") {
            lost = true;
            card.to_guest.extend(head.take());
        } else {
            card.to_guest.push_back(frame.to_vec());
        }
    };
    let mut received = Vec::new();
    guest.until_with("what was lost", hand_on, |guest| {
        receive(guest, handle, &mut received);
        (received == b"headtail").then_some(())
    });
    assert!(lost);
}

/// Takes what has come.
fn receive(guest: &mut Guest, handle: SocketHandle, received: &mut Vec<u8>) {
    let socket = guest.tcp(handle);
    while socket.can_recv() {
        socket.recv(|part| (part.len(), received.extend(&*part))).unwrap();
    }
}
