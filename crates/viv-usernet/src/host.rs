//! The host's side: sockets, and the descriptor that says which of them have something.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, sockopt};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use crate::core::Token;
use crate::error::Error;

/// How many sockets one call asks about.
pub(crate) const EVENTS: usize = 256;
/// How many connections wait at a published port.
const BACKLOG: i32 = 128;

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// What happened to a socket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event {
    pub token: Token,
    pub readable: bool,
    pub writable: bool,
    /// A read may stop short of what there is: its peer sends no more or something urgent, or it has failed. Who reads goes
    /// on until there is nothing.
    pub ends: bool,
}

/// The host's descriptors that are not a flow's.
#[derive(Debug)]
pub(crate) struct Host {
    epoll: OwnedFd,
    clock: OwnedFd,
    /// For when the clock is set.
    armed: Option<Instant>,
}

impl Host {
    pub(crate) fn new() -> Result<Self, Error> {
        let failed = |action| move |source| Error::Host { action, source };
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed("make an epoll descriptor"))?;
        let clock = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)
            .map_err(failed("make a timer"))?;
        let token = epoll::EventData::new_u64(Token::Clock.bits());
        epoll::add(&epoll, &clock, token, epoll::EventFlags::IN).map_err(failed("watch a timer"))?;
        Ok(Self { epoll, clock, armed: None })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Has a socket's changes told. Each is told once, so whoever was told acts until the socket blocks.
    pub(crate) fn watch(&self, socket: &OwnedFd, token: Token) -> Result<(), Errno> {
        use epoll::EventFlags as Flags;
        let flags = Flags::IN | Flags::OUT | Flags::PRI | Flags::RDHUP | Flags::ET;
        epoll::add(&self.epoll, socket, epoll::EventData::new_u64(token.bits()), flags)
    }

    /// What has happened since the last call: all of it, or [`EVENTS`].
    pub(crate) fn events(&self) -> Vec<Event> {
        use epoll::EventFlags as Flags;
        let mut events = Vec::with_capacity(EVENTS);
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if retry_on_intr(|| epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&now))).is_err() {
            return Vec::new();
        }
        let gone = Flags::ERR | Flags::HUP;
        let told = |event: epoll::Event| {
            let (flags, token) = (event.flags, Token::from_bits(event.data.u64()));
            let readable = flags.intersects(Flags::IN | Flags::PRI | Flags::RDHUP | gone);
            let ends = flags.intersects(Flags::PRI | Flags::RDHUP | gone);
            Event { token, readable, writable: flags.intersects(Flags::OUT | gone), ends }
        };
        events.into_iter().map(told).collect()
    }

    /// Sets the clock if it is not set for as early as that.
    pub(crate) fn arm(&mut self, due: Option<Instant>) {
        let Some(due) = due.filter(|due| self.armed.is_none_or(|armed| *due < armed)) else { return };
        // A time of 0 would stop it.
        let wait = due.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let it_value = Timespec::try_from(wait).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        if timerfd_settime(&self.clock, TimerfdTimerFlags::empty(), &once).is_ok() {
            self.armed = Some(due);
        }
    }

    /// Takes note that the clock struck.
    pub(crate) fn struck(&mut self) {
        let _ = rustix::io::read(&self.clock, &mut [0; 8]);
        self.armed = None;
    }
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    }
}

fn socket(address: IpAddr, kind: SocketType, protocol: Option<net::Protocol>) -> Result<OwnedFd, Errno> {
    let socket = net::socket_with(family(address), kind, FLAGS, protocol)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    Ok(socket)
}

/// Begins a TCP connection.
pub(crate) fn connect_stream(to: SocketAddr) -> Result<OwnedFd, Errno> {
    let socket = socket(to.ip(), SocketType::STREAM, None)?;
    prepare_stream(&socket);
    match net::connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(errno) => Err(errno),
    }
}

/// Sets what a spliced connection's socket needs: segments as the guest makes them, and notice of peers that are gone.
pub(crate) fn prepare_stream(socket: &OwnedFd) {
    let _ = sockopt::set_tcp_nodelay(socket, true);
    let _ = sockopt::set_socket_keepalive(socket, true);
}

/// A UDP socket that speaks to one peer.
pub(crate) fn connect_datagram(to: SocketAddr) -> Result<OwnedFd, Errno> {
    let socket = socket(to.ip(), SocketType::DGRAM, None)?;
    net::connect(&socket, &to)?;
    Ok(socket)
}

/// A socket for echo requests to one host: ICMP that needs no privilege, where the host allows it.
pub(crate) fn connect_echo(to: IpAddr) -> Result<OwnedFd, Errno> {
    let protocol = match to {
        IpAddr::V4(_) => ipproto::ICMP,
        IpAddr::V6(_) => ipproto::ICMPV6,
    };
    let socket = net::socket_with(family(to), SocketType::DGRAM, FLAGS, Some(protocol))?;
    net::connect(&socket, &SocketAddr::new(to, 0))?;
    Ok(socket)
}

/// A socket that listens for TCP connections, or for datagrams.
pub(crate) fn listen(at: SocketAddr, kind: SocketType) -> Result<OwnedFd, Errno> {
    let socket = socket(at.ip(), kind, None)?;
    if kind == SocketType::STREAM {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    net::bind(&socket, &at)?;
    if kind == SocketType::STREAM {
        net::listen(&socket, BACKLOG)?;
    }
    Ok(socket)
}

/// Takes a connection that waits, and who it is from.
pub(crate) fn accept(listener: &OwnedFd) -> Result<(OwnedFd, SocketAddr), Errno> {
    let (socket, peer) = retry_on_intr(|| net::acceptfrom_with(listener, FLAGS))?;
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok()).ok_or(Errno::AFNOSUPPORT)?;
    Ok((socket, peer))
}

/// The address that a socket has on the host.
pub(crate) fn local_address(socket: &OwnedFd) -> Option<SocketAddr> {
    SocketAddr::try_from(net::getsockname(socket).ok()?).ok()
}

/// Sends what the socket takes.
pub(crate) fn send(socket: &OwnedFd, data: &[u8]) -> Result<usize, Errno> {
    retry_on_intr(|| net::send(socket, data, SendFlags::NOSIGNAL | SendFlags::DONTWAIT))
}

/// Sends a datagram.
pub(crate) fn send_to(socket: &OwnedFd, data: &[u8], to: SocketAddr) -> Result<usize, Errno> {
    retry_on_intr(|| net::sendto(socket, data, SendFlags::NOSIGNAL | SendFlags::DONTWAIT, &to))
}

/// Receives a datagram: its length.
pub(crate) fn receive(socket: &OwnedFd, data: &mut [u8]) -> Result<usize, Errno> {
    let length = data.len();
    retry_on_intr(|| net::recv(socket, &mut *data, RecvFlags::DONTWAIT)).map(|(_, read)| read.min(length))
}

/// Receives a datagram: its length, and who it is from.
pub(crate) fn receive_from(socket: &OwnedFd, data: &mut [u8]) -> Result<(usize, SocketAddr), Errno> {
    let length = data.len();
    let (_, read, peer) = retry_on_intr(|| net::recvfrom(socket, &mut *data, RecvFlags::DONTWAIT))?;
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok()).ok_or(Errno::AFNOSUPPORT)?;
    Ok((read.min(length), peer))
}

/// Whether what goes to an address stays on the host, or may; `None` if the host does not say. Nothing is sent for that.
pub(crate) fn is_own(address: IpAddr) -> Option<bool> {
    // The host picks the destination as the source when that is its own; but for the second address of a subnet, the first.
    match connect_datagram(SocketAddr::new(address, 9)) {
        Ok(probe) if local_address(&probe)?.ip() == address => Some(true),
        Ok(_) => takes_as_its_own(address),
        // Where the host has no way to, there is nothing to reach.
        Err(Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::ACCESS | Errno::PERM | Errno::INVAL) => {
            Some(false)
        }
        Err(_) => None,
    }
}

/// Whether the host lets a socket have an address that is not everybody's to have (`ip_nonlocal_bind`).
fn takes_as_its_own(address: IpAddr) -> Option<bool> {
    let binds = |address| {
        let probe = socket(address, SocketType::DGRAM, None).ok()?;
        match net::bind(&probe, &SocketAddr::new(address, 0)) {
            Ok(()) => Some(true),
            Err(Errno::ADDRNOTAVAIL) => Some(false),
            Err(_) => None,
        }
    };
    // Documentation's own (RFC 5737, RFC 3849): nobody's.
    let nobodys = match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    };
    Some(binds(address)? && !binds(nobodys)?)
}
