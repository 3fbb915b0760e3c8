//! A network card: streams and datagrams each way, round trips, and small requests, between the guest and a server on the
//! host's loopback. On the host itself both ends are there.
//!
//! Streams are iperf3's. Each other row is asked for by a connection of its own ([`Job`]), which is also how both ends tell
//! each other that they are done.

mod datagrams;
mod interface;
mod iperf;
mod requests;
mod round_trips;
mod server;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;

use crate::system;

pub use server::serve;

/// A piece of work.
pub struct Row {
    pub name: &'static str,
    kind: Kind,
    /// How much the server is asked for: bytes of all streams, datagrams, or round trips.
    count: u64,
    /// How many streams there are.
    streams: usize,
}

/// Where data goes, as the guest sees it.
#[derive(Clone, Copy)]
enum Kind {
    /// Streams of bytes out, or in, by iperf3.
    Send,
    Receive,
    /// Datagrams out, or in.
    SendDatagrams,
    ReceiveDatagrams,
    /// One byte there and back.
    RoundTrip,
    /// One byte there and back, in datagrams.
    DatagramRoundTrip,
    /// Documents fetched from the server, each by a connection of its own.
    Fetch,
    /// The same by the server, from here.
    Serve,
}

const fn row(name: &'static str, kind: Kind, count: u64) -> Row {
    Row { name, kind, count, streams: 1 }
}

pub const ROWS: &[Row] = &[
    row("iperf3-send", Kind::Send, 256 << 20),
    Row { name: "iperf3-send-4", kind: Kind::Send, count: 256 << 20, streams: 4 },
    row("iperf3-receive", Kind::Receive, 256 << 20),
    Row { name: "iperf3-receive-4", kind: Kind::Receive, count: 256 << 20, streams: 4 },
    row("net-udp-send", Kind::SendDatagrams, 16 << 10),
    row("net-udp-receive", Kind::ReceiveDatagrams, 16 << 10),
    row("net-round-trip", Kind::RoundTrip, 4000),
    row("net-udp-round-trip", Kind::DatagramRoundTrip, 4000),
    row("net-requests-out", Kind::Fetch, 1000),
    row("net-requests-in", Kind::Serve, 1000),
];

/// What the server is asked to do.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Job {
    /// It answers with the port of a socket for datagrams.
    TakeDatagrams,
    GiveDatagrams,
    EchoDatagrams,
    Echo,
    /// What it serves.
    Document,
    /// It fetches documents at the port that is named beside.
    Fetch,
}

impl Job {
    const ALL: [Self; 6] = [
        Self::TakeDatagrams,
        Self::GiveDatagrams,
        Self::EchoDatagrams,
        Self::Echo,
        Self::Document,
        Self::Fetch,
    ];
}

/// Where the other end is.
pub struct Network {
    server: SocketAddr,
    /// Where documents are served here, and at which port the server finds that if it is another one.
    listen: SocketAddr,
    served: Option<u16>,
    /// Where iperf3's server is.
    iperf3: SocketAddr,
}

impl Network {
    /// A guest's, whose card is set up for that, in the root file system of its disk, which has iperf3.
    pub fn guests(port: u16, served: u16, iperf3: u16) -> Self {
        interface::set_up();
        system::mount_guests_root();
        system::enter(Path::new(system::GUESTS_ROOT));
        Self {
            server: (interface::HOST, port).into(),
            iperf3: (interface::HOST, iperf3).into(),
            listen: (interface::GUEST, 80).into(),
            served: Some(served),
        }
    }

    /// That of the host itself.
    pub fn hosts(port: u16, iperf3: u16) -> Self {
        let here = |port| (Ipv4Addr::LOCALHOST, port).into();
        Self { server: here(port), listen: here(0), served: None, iperf3: here(iperf3) }
    }

    /// Has what the work needs in memory.
    pub fn prepare(&self, row: &Row) {
        if let Kind::Send | Kind::Receive = row.kind {
            iperf::run(self.iperf3, 1, row.streams, false);
        }
    }

    /// Does the work. What it comes to says how much both ends saw.
    pub fn work(&self, row: &Row) -> u64 {
        let count = row.count;
        match row.kind {
            Kind::Send => iperf::run(self.iperf3, count, row.streams, false),
            Kind::Receive => iperf::run(self.iperf3, count, row.streams, true),
            Kind::SendDatagrams => {
                let (mut stream, socket) = self.ask_for_datagrams(Job::TakeDatagrams, count);
                datagrams::give(&socket, &mut stream, count)
            }
            Kind::ReceiveDatagrams => {
                let (mut stream, socket) = self.ask_for_datagrams(Job::GiveDatagrams, count);
                datagrams::take(&socket, &mut stream, count)
            }
            Kind::RoundTrip => round_trips::make(&mut self.ask(Job::Echo, count, 0), count),
            Kind::DatagramRoundTrip => {
                let (_stream, socket) = self.ask_for_datagrams(Job::EchoDatagrams, count);
                datagrams::round_trips(&socket, count)
            }
            Kind::Fetch => requests::fetch(count, || self.ask(Job::Document, 0, 0)),
            Kind::Serve => {
                let listener = TcpListener::bind(self.listen).expect("the port is free");
                let here = listener.local_addr().expect("it is bound").port();
                let mut stream = self.ask(Job::Fetch, count, self.served.unwrap_or(here));
                requests::serve(&listener, count);
                number(&mut stream)
            }
        }
    }

    /// Asks the server for something.
    fn ask(&self, job: Job, count: u64, port: u16) -> TcpStream {
        let mut stream = TcpStream::connect(self.server).expect("the server is there");
        stream.set_nodelay(true).expect("it is a TCP connection");
        let mut request = [0; 11];
        request[0] = job as u8;
        request[1..9].copy_from_slice(&count.to_le_bytes());
        request[9..].copy_from_slice(&port.to_le_bytes());
        stream.write_all(&request).expect("the server listens");
        stream
    }

    /// Asks for something in datagrams; with the socket to its socket.
    fn ask_for_datagrams(&self, job: Job, count: u64) -> (TcpStream, UdpSocket) {
        let mut stream = self.ask(job, count, 0);
        let socket = datagrams::connect(self.listen.ip(), self.server.ip(), &mut stream);
        (stream, socket)
    }
}

/// A number that the other end says.
fn number(stream: &mut TcpStream) -> u64 {
    let mut number = [0; 8];
    stream.read_exact(&mut number).expect("the other end says a number");
    u64::from_le_bytes(number)
}

/// Tells the other end a number.
fn tell(stream: &mut TcpStream, number: u64) {
    stream.write_all(&number.to_le_bytes()).expect("the other end listens");
}
