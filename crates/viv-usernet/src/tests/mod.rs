//! The router between smoltcp, which plays the guest, and sockets on the host's loopback.

mod datagram;
mod limits;
mod link;
mod offload;
mod publish;
mod reach;
mod saved;
mod stream;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use smoltcp::iface::{Config as InterfaceConfig, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{tcp, udp};
use smoltcp::time::Instant as Moment;
use smoltcp::wire::{EthernetAddress, IpCidr};

use crate::{Config, Offload, UserNet};

/// The guest's link address.
pub(crate) const MAC: EthernetAddress = EthernetAddress([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
/// How long anything may take before a test fails rather than hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// The guest's network card: frames on their way.
#[derive(Default)]
pub(crate) struct Card {
    pub to_guest: VecDeque<Vec<u8>>,
    pub from_guest: VecDeque<Vec<u8>>,
}

impl Device for Card {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Moment) -> Option<(Received, Sending<'_>)> {
        let frame = self.to_guest.pop_front()?;
        Some((Received(frame), Sending(&mut self.from_guest)))
    }

    fn transmit(&mut self, _: Moment) -> Option<Sending<'_>> {
        Some(Sending(&mut self.from_guest))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

pub(crate) struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

pub(crate) struct Sending<'a>(&'a mut VecDeque<Vec<u8>>);

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut frame = vec![0; length];
        let result = fill(&mut frame);
        self.0.push_back(frame);
        result
    }
}

/// A guest with its addresses set, on a network.
pub(crate) struct Guest {
    pub net: UserNet,
    pub card: Card,
    pub interface: Interface,
    pub sockets: SocketSet<'static>,
    start: Instant,
}

/// A network through which the guest reaches the host's loopback.
pub(crate) fn open() -> Config {
    Config { host_access: true, ..Config::default() }
}

/// The host's loopback as the guest names it.
pub(crate) fn gateway(like: SocketAddr) -> SocketAddr {
    let address: IpAddr = match like {
        SocketAddr::V4(_) => Config::default().ipv4.gateway.into(),
        SocketAddr::V6(_) => Config::default().ipv6.unwrap().gateway.into(),
    };
    SocketAddr::new(address, like.port())
}

/// The guest's IPv6 address.
pub(crate) fn guest_v6() -> std::net::Ipv6Addr {
    let mut segments = Config::default().ipv6.unwrap().gateway.segments();
    segments[7] = 0x15;
    segments.into()
}

impl Guest {
    pub fn new(config: Config) -> Self {
        let mut guest = Self::without_address(config);
        guest.interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(Config::default().ipv4.guest.into(), 24)).unwrap();
            addresses.push(IpCidr::new(guest_v6().into(), 64)).unwrap();
        });
        let routes = guest.interface.routes_mut();
        routes.add_default_ipv4_route(Config::default().ipv4.gateway).unwrap();
        routes.add_default_ipv6_route(Config::default().ipv6.unwrap().gateway).unwrap();
        guest
    }

    pub fn without_address(config: Config) -> Self {
        let net = UserNet::new(config).unwrap();
        let mut card = Card::default();
        let mut settings = InterfaceConfig::new(MAC.into());
        settings.random_seed = 7;
        let interface = Interface::new(settings, &mut card, Moment::ZERO);
        Self { net, card, interface, sockets: SocketSet::new(Vec::new()), start: Instant::now() }
    }

    /// Lets everybody act once.
    pub fn step(&mut self) {
        self.step_with(|card, frame| card.to_guest.push_back(frame.to_vec()));
    }

    /// The same, with frames on their way to the guest in other hands.
    fn step_with(&mut self, mut deliver: impl FnMut(&mut Card, &[u8])) {
        self.net.poll();
        let mut frame = Vec::new();
        while let Some(offload) = self.net.receive(&mut frame) {
            assert_eq!(offload, Offload::default(), "nothing more was agreed on");
            assert!(frame.len() <= 1514, "{} bytes in a frame", frame.len());
            deliver(&mut self.card, &frame);
        }
        let now = Moment::from_micros(i64::try_from(self.start.elapsed().as_micros()).unwrap());
        self.interface.poll(now, &mut self.card, &mut self.sockets);
        while let Some(frame) = self.card.from_guest.pop_front() {
            if !self.net.send(Offload::default(), &frame) {
                self.card.from_guest.push_front(frame);
                break;
            }
        }
    }

    /// Goes on until `done` gives something.
    pub fn until<T>(&mut self, what: &str, done: impl FnMut(&mut Self) -> Option<T>) -> T {
        self.until_with(what, |card, frame| card.to_guest.push_back(frame.to_vec()), done)
    }

    /// The same, with frames on their way to the guest in other hands.
    pub fn until_with<T>(
        &mut self,
        what: &str,
        mut deliver: impl FnMut(&mut Card, &[u8]),
        mut done: impl FnMut(&mut Self) -> Option<T>,
    ) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            self.step_with(&mut deliver);
            if let Some(value) = done(self) {
                return value;
            }
            assert!(Instant::now() < end, "waited too long: {what}");
            let mut fds = [PollFd::from_borrowed_fd(self.net.fd(), PollFlags::IN)];
            let _ = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 2_000_000 }));
        }
    }

    /// Gives a socket with buffers of so many bytes.
    pub fn tcp_socket(&mut self, bytes: usize) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; bytes]);
        self.sockets.add(tcp::Socket::new(buffer(), buffer()))
    }

    pub fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Begins a connection.
    pub fn connect(&mut self, to: SocketAddr, from: u16, bytes: usize) -> SocketHandle {
        let handle = self.tcp_socket(bytes);
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        socket.connect(self.interface.context(), to, from).unwrap();
        handle
    }

    /// Begins a connection and waits for what becomes of it.
    pub fn connected(&mut self, to: SocketAddr, from: u16, bytes: usize) -> SocketHandle {
        let handle = self.connect(to, from, bytes);
        let state = self.until("a connection", |guest| {
            Some(guest.tcp(handle).state()).filter(|state| *state != tcp::State::SynSent)
        });
        assert_eq!(state, tcp::State::Established);
        handle
    }

    pub fn udp_socket(&mut self, port: u16) -> SocketHandle {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 64], vec![0; 1 << 17]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).unwrap();
        self.sockets.add(socket)
    }

    pub fn udp(&mut self, handle: SocketHandle) -> &mut udp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Waits for a datagram.
    pub fn datagram(&mut self, handle: SocketHandle) -> (Vec<u8>, SocketAddr) {
        self.until("a datagram", |guest| {
            let (data, from) = guest.udp(handle).recv().ok()?;
            let from = SocketAddr::new(from.endpoint.addr.into(), from.endpoint.port);
            Some((data.to_vec(), from))
        })
    }

    /// Waits for a frame for which `pick` gives something, past the guest's stack.
    pub fn frame<T>(&mut self, what: &str, pick: impl Fn(&[u8]) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        let mut frame = Vec::new();
        loop {
            self.net.poll();
            while self.net.receive(&mut frame).is_some() {
                if let Some(value) = pick(&frame) {
                    return value;
                }
            }
            assert!(Instant::now() < end, "waited too long: {what}");
            let mut fds = [PollFd::from_borrowed_fd(self.net.fd(), PollFlags::IN)];
            let _ = poll(&mut fds, Some(&Timespec { tv_sec: 1, tv_nsec: 0 }));
        }
    }
}

/// Bytes that are unlike each other, of which every part says where it is from.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
}
