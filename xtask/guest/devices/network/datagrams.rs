//! Datagrams. They may be lost, so that whoever receives says how far it got, and so many at the most are on their way.

use std::io::ErrorKind;
use std::net::{IpAddr, TcpStream, UdpSocket};
use std::time::Duration;

use super::{number, tell};

/// Bytes of a datagram: with its headers it fits into an Ethernet frame.
const LENGTH: usize = 1400;
/// How many are on their way, and after how many whoever receives says so.
const WINDOW: u64 = 32;
const SAY_EVERY: u64 = 8;
/// How long an answer may take before something was lost.
const PATIENCE: Duration = Duration::from_millis(200);

fn socket(here: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind((here, 0)).expect("a port is free");
    socket.set_read_timeout(Some(PATIENCE)).expect("it is no 0");
    socket
}

/// The server's socket, whose peer is whoever speaks first. The stream tells its port, and then that it knows its peer: what
/// comes while a socket is connected may be lost.
pub fn accept(here: IpAddr, stream: &mut TcpStream) -> UdpSocket {
    let socket = socket(here);
    tell(stream, socket.local_addr().expect("it is bound").port().into());
    let peer = loop {
        match socket.recv_from(&mut [0]) {
            Ok((_, peer)) => break peer,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("waiting for a datagram: {error}"),
        }
    };
    socket.connect(peer).expect("there is a way to the peer");
    tell(stream, 0);
    socket
}

/// A socket to the server's.
pub fn connect(here: IpAddr, server: IpAddr, stream: &mut TcpStream) -> UdpSocket {
    let socket = socket(here);
    socket.connect((server, number(stream) as u16)).expect("there is a way to the server");
    stream.set_read_timeout(Some(PATIENCE)).expect("it is no 0");
    loop {
        socket.send(&[]).expect("the way is open");
        if is_told(stream) {
            break;
        }
    }
    stream.set_read_timeout(None).expect("it is a socket");
    number(stream);
    socket
}

/// Sends so many datagrams: how many arrived. The last word comes by the stream.
pub fn give(socket: &UdpSocket, stream: &mut TcpStream, count: u64) -> u64 {
    let mut datagram = [0; LENGTH];
    let (mut next, mut known) = (0, 0);
    stream.set_nonblocking(true).expect("it is a socket");
    let arrived = loop {
        while next < count && next < known + WINDOW {
            datagram[..8].copy_from_slice(&u64::to_le_bytes(next));
            // What the system has no room for is lost, as on the way.
            let _ = socket.send(&datagram);
            next += 1;
        }
        let mut said = [0; 8];
        match socket.recv(&mut said) {
            Ok(8) => known = known.max(u64::from_le_bytes(said)),
            Ok(_) => {}
            Err(_) => next = known,
        }
        if known == count || is_told(stream) {
            break count;
        }
    };
    stream.set_nonblocking(false).expect("it is a socket");
    arrived
}

/// Receives so many datagrams, in order: how many.
pub fn take(socket: &UdpSocket, stream: &mut TcpStream, count: u64) -> u64 {
    let mut datagram = [0; LENGTH];
    let mut next = 0_u64;
    while next < count {
        let length = socket.recv(&mut datagram).unwrap_or(0);
        let number = datagram.first_chunk().map_or(0, |number| u64::from_le_bytes(*number));
        let is_next = length == LENGTH && number == next;
        if is_next {
            next += 1;
        }
        if !is_next || next.is_multiple_of(SAY_EVERY) || next == count {
            let _ = socket.send(&next.to_le_bytes());
        }
    }
    tell(stream, next);
    next
}

fn is_told(stream: &TcpStream) -> bool {
    stream.peek(&mut [0]).is_ok_and(|length| length == 1)
}

/// Sends a byte and waits for it, again if it is lost, so often: how often it came.
pub fn round_trips(socket: &UdpSocket, count: u64) -> u64 {
    for number in 0..count {
        let sent = number.to_le_bytes();
        let mut came = [0; 8];
        loop {
            socket.send(&sent).expect("the way is open");
            if socket.recv(&mut came).is_ok() && came == sent {
                break;
            }
        }
    }
    count
}

/// Sends back what comes until the stream ends.
pub fn echo(socket: &UdpSocket, stream: &TcpStream) {
    stream.set_nonblocking(true).expect("it is a socket");
    let mut datagram = [0; LENGTH];
    while !stream.peek(&mut [0]).is_ok_and(|length| length == 0) {
        if let Ok(length) = socket.recv(&mut datagram)
            && length != 0
        {
            let _ = socket.send(&datagram[..length]);
        }
    }
}
