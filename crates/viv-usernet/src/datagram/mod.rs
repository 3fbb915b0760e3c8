//! UDP and echo requests: each flow of the guest's has a socket of its own, which hears its one peer and nobody else.
//!
//! Flows that nothing passes are forgotten after a time. When there are too many, the one goes that would be forgotten
//! first; those that others made, by published ports, make room for each other alone.

mod build;
mod query;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use smoltcp::wire::UdpPacket;

use crate::core::{Core, Token};
use crate::flow::Ends;
use crate::frame::{self, Packet};
use crate::host;
use crate::icmp::{self, EchoRequest, Why};
use crate::offload::{Checksum, Offload};
use crate::policy::{self, Way};
use crate::publish::{self, Published};
use crate::slots::{Id, Slots};
use crate::timers::Alarm;

use query::Query;

/// How long a flow lives that nothing passes (RFC 4787, 4.3: two minutes at least).
const IDLE: Duration = Duration::from_secs(180);
/// The same for echo requests.
const ECHO_IDLE: Duration = Duration::from_secs(30);
/// How many errors of a socket are taken in a row.
const MAX_ERRORS: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Udp,
    /// Echo requests; the identifier is the guest's port.
    Echo,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    kind: Kind,
    ends: Ends,
}

/// Through what a flow speaks.
#[derive(Debug)]
enum Socket {
    /// Its own socket, connected to its peer.
    Own(OwnedFd),
    /// A published port, to this peer.
    Port(Id, SocketAddr),
}

#[derive(Debug)]
struct Flow {
    key: Key,
    socket: Socket,
    alarm: Alarm,
    readable: bool,
    queued: bool,
    /// The question to a name server, if that is what it is for.
    query: Option<Query>,
}

/// All flows.
#[derive(Debug)]
pub(crate) struct Flows {
    /// How many there may be.
    limit: usize,
    flows: Slots<Flow>,
    by_key: HashMap<Key, Id>,
}

impl Flow {
    fn idle(&self) -> Duration {
        match (&self.query, self.key.kind) {
            (Some(_), _) => query::PATIENCE,
            (None, Kind::Udp) => IDLE,
            (None, Kind::Echo) => ECHO_IDLE,
        }
    }

    /// Whether somebody made it who sent to a published port.
    fn is_from_outside(&self) -> bool {
        matches!(self.socket, Socket::Port(..))
    }

    fn send(&self, published: &mut Published, data: &[u8]) -> Result<(), Errno> {
        match &self.socket {
            Socket::Own(socket) => match host::send(socket, data) {
                // What is told is of a datagram before; this one was not sent.
                Err(Errno::CONNREFUSED) => host::send(socket, data).map(drop),
                other => other.map(drop),
            },
            Socket::Port(id, peer) => {
                let port = published.get_mut(*id).ok_or(Errno::BADF)?;
                host::send_to(&port.socket, data, *peer).map(drop)
            }
        }
    }
}

impl Flows {
    pub(crate) fn new(limit: usize) -> Self {
        let limit = limit.max(1);
        Self { limit, flows: Slots::new(limit), by_key: HashMap::new() }
    }

    /// Whether a flow is still there.
    pub(crate) fn is_live(&mut self, id: Id) -> bool {
        self.flows.get_mut(id).is_some()
    }

    /// Forgets all flows.
    pub(crate) fn clear(&mut self) {
        let ids: Vec<_> = self.flows.iter().map(|(id, _)| id).collect();
        ids.into_iter().for_each(|id| self.remove(id));
    }

    /// A UDP datagram of the guest's.
    pub(crate) fn udp(
        &mut self,
        core: &mut Core,
        published: &mut Published,
        packet: &Packet<'_>,
        sum: Checksum,
    ) {
        let Ok(datagram) = UdpPacket::new_checked(packet.payload) else { return };
        let (source, destination) = (packet.source, packet.destination);
        let length = usize::from(datagram.len());
        let whole = Packet { payload: packet.payload.get(..length).unwrap_or_default(), ..*packet };
        let has_sum = sum == Checksum::None && (datagram.checksum() != 0 || source.is_ipv6());
        if datagram.src_port() == 0 || datagram.dst_port() == 0 || (has_sum && !frame::is_intact(&whole)) {
            return;
        }
        let ends = Ends::new((source, datagram.src_port()), (destination, datagram.dst_port()));
        self.send(core, published, Key { kind: Kind::Udp, ends }, datagram.payload());
    }

    /// An echo request of the guest's.
    pub(crate) fn echo(
        &mut self,
        core: &mut Core,
        published: &mut Published,
        packet: &Packet<'_>,
        request: EchoRequest,
    ) {
        let ends = Ends::new((packet.source, request.identifier), (packet.destination, 0));
        self.send(core, published, Key { kind: Kind::Echo, ends }, packet.payload);
    }

    /// Sends something of the guest's, by a new flow if there is none.
    fn send(&mut self, core: &mut Core, published: &mut Published, key: Key, data: &[u8]) {
        let id = match self.by_key.get(&key) {
            Some(&id) => id,
            None => match self.open(core, key) {
                Ok(id) => id,
                Err(None) => return,
                Err(Some(why)) => return refuse(core, key, data, why),
            },
        };
        let Some(flow) = self.flows.get_mut(id) else { return };
        let begins = flow.query.as_mut().is_none_or(|query| query.asked(data));
        let sent = flow.send(published, data);
        if begins {
            let idle = flow.idle();
            core.set_alarm(&mut flow.alarm, Token::Flow(id), idle);
        }
        if let Err(errno) = sent {
            self.failed(core, id, errno);
        }
    }

    /// Makes a flow for the guest. Otherwise says why not, unless the guest is not to be told.
    fn open(&mut self, core: &mut Core, key: Key) -> Result<Id, Option<Why>> {
        let remote = key.ends.remote;
        let (target, query) = match policy::way(core, remote) {
            Way::Silent => return Err(None),
            Way::Refused if key.kind == Kind::Echo => return Err(Some(Why::Prohibited)),
            Way::Refused => return Err(Some(Why::Port)),
            Way::Host(target) => (target, None),
            Way::Dns => {
                let server = core.resolvers.current().ok_or(Some(Why::Port))?;
                (server, Some(Query::new(server)))
            }
        };
        let opened = match key.kind {
            Kind::Udp => host::connect_datagram(target),
            Kind::Echo => host::connect_echo(target.ip()),
        };
        let socket = opened.map_err(|errno| Some(why(core, key, errno)))?;
        self.insert(core, key, Socket::Own(socket), query).ok_or(Some(Why::Host))
    }

    fn insert(&mut self, core: &mut Core, key: Key, socket: Socket, query: Option<Query>) -> Option<Id> {
        // Whoever sends to a published port takes no flow from the guest, nor more than half of all.
        let from_outside = matches!(socket, Socket::Port(..));
        let outsiders = || self.flows.iter().filter(|(_, flow)| flow.is_from_outside()).count();
        if self.flows.is_full() || (from_outside && outsiders() >= self.limit / 2) {
            let may_go = self.flows.iter().filter(|(_, flow)| !from_outside || flow.is_from_outside());
            let first = may_go.min_by_key(|(_, flow)| flow.alarm.due()).map(|(id, _)| id);
            self.remove(first?);
        }
        let mut flow = Flow { key, socket, alarm: Alarm::default(), readable: false, queued: false, query };
        let id = self.flows.insert_with(|id| {
            if let Socket::Own(socket) = &flow.socket {
                core.host.watch(socket, Token::Flow(id)).ok()?;
            }
            let idle = flow.idle();
            core.set_alarm(&mut flow.alarm, Token::Flow(id), idle);
            Some(flow)
        })?;
        self.by_key.insert(key, id);
        Some(id)
    }

    fn remove(&mut self, id: Id) {
        if let Some(flow) = self.flows.remove(id) {
            self.by_key.remove(&flow.key);
        }
    }

    /// Tells the guest what the host said about a datagram.
    fn failed(&mut self, core: &mut Core, id: Id, errno: Errno) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        let key = flow.key;
        match errno {
            Errno::CONNREFUSED if flow.query.is_some() => self.ask_next(core, id),
            Errno::CONNREFUSED => refuse(core, key, &[], Why::Port),
            Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::NETDOWN => {
                refuse(core, key, &[], Why::Host);
            }
            Errno::ACCESS | Errno::PERM => refuse(core, key, &[], Why::Prohibited),
            // The socket is full, or the datagram is too large for the way: it is lost, as datagrams may be.
            _ => {}
        }
    }

    /// A flow's socket has something.
    pub(crate) fn readable(&mut self, core: &mut Core, id: Id) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        flow.readable = true;
        if !flow.queued {
            flow.queued = true;
            core.ready.push_back(Token::Flow(id));
        }
    }

    /// A flow's time is over, or that of a question.
    pub(crate) fn expired(&mut self, core: &mut Core, id: Id, entry: Instant, now: Instant) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        if !core.timers.goes_off(&mut flow.alarm, Token::Flow(id), entry, now) {
            return;
        }
        if flow.query.as_ref().is_some_and(Query::is_open) {
            self.ask_next(core, id);
        } else {
            self.remove(id);
        }
    }

    /// Gives the next frame of a flow.
    pub(crate) fn produce(&mut self, core: &mut Core, id: Id, out: &mut Vec<u8>) -> Option<Offload> {
        let mut scratch = std::mem::take(&mut core.scratch);
        let offload = self.receive(core, id, &mut scratch, out);
        core.scratch = scratch;
        offload
    }

    fn receive(&mut self, core: &mut Core, id: Id, scratch: &mut [u8], out: &mut Vec<u8>) -> Option<Offload> {
        for _ in 0..MAX_ERRORS {
            let flow = self.flows.get_mut(id)?;
            let Socket::Own(socket) = &flow.socket else { return None };
            let length = match host::receive(socket, scratch) {
                Ok(length) => length,
                Err(Errno::AGAIN) => {
                    (flow.readable, flow.queued) = (false, false);
                    return None;
                }
                Err(errno) => {
                    self.failed(core, id, errno);
                    continue;
                }
            };
            let data = scratch.get(..length).unwrap_or_default();
            if let Some(query) = &mut flow.query {
                query.answered(data);
            }
            if !flow.query.as_ref().is_some_and(Query::is_open) {
                let idle = flow.idle();
                core.set_alarm(&mut flow.alarm, Token::Flow(id), idle);
            }
            let key = flow.key;
            core.ready.push_back(Token::Flow(id));
            return build::frame(core, key, data, out);
        }
        // There may be more; it comes in turn.
        if self.is_live(id) {
            core.ready.push_back(Token::Flow(id));
        }
        None
    }

    /// Gives the next frame of a published port.
    pub(crate) fn produce_published(
        &mut self,
        core: &mut Core,
        published: &mut Published,
        id: Id,
        out: &mut Vec<u8>,
    ) -> Option<Offload> {
        let port = published.get_mut(id)?;
        let mut scratch = std::mem::take(&mut core.scratch);
        let received = host::receive_from(&port.socket, &mut scratch);
        let offload = match received {
            Ok((length, peer)) => {
                core.ready.push_back(Token::Published(id));
                let (guest, remote) = publish::guest_ends(core, peer, port.publish.guest_port);
                let key = Key { kind: Kind::Udp, ends: Ends { guest, remote } };
                self.heard(core, key, id, peer);
                build::frame(core, key, scratch.get(..length).unwrap_or_default(), out)
            }
            Err(Errno::AGAIN) => {
                (port.readable, port.queued) = (false, false);
                None
            }
            Err(_) => {
                core.ready.push_back(Token::Published(id));
                None
            }
        };
        core.scratch = scratch;
        offload
    }

    /// Takes note that a peer of a published port is there, so that the guest can answer it.
    fn heard(&mut self, core: &mut Core, key: Key, port: Id, peer: SocketAddr) {
        if let Some(&id) = self.by_key.get(&key)
            && let Some(flow) = self.flows.get_mut(id)
        {
            if let Socket::Port(..) = flow.socket {
                flow.socket = Socket::Port(port, peer);
            }
            let idle = flow.idle();
            core.set_alarm(&mut flow.alarm, Token::Flow(id), idle);
            return;
        }
        self.insert(core, key, Socket::Port(port, peer), None);
    }
}

/// What the guest is told when the host gives no socket.
fn why(core: &mut Core, key: Key, errno: Errno) -> Why {
    match errno {
        Errno::ACCESS | Errno::PERM if key.kind == Kind::Echo => {
            core.warn(
                "echo requests of the guest are refused: no group of this process is in \
                 net.ipv4.ping_group_range",
            );
            Why::Prohibited
        }
        Errno::MFILE | Errno::NFILE => {
            core.warn("flows of the guest are refused: this process has too many open files");
            Why::Host
        }
        _ => Why::Host,
    }
}

/// Tells the guest that something does not arrive.
fn refuse(core: &mut Core, key: Key, data: &[u8], why: Why) {
    match key.kind {
        Kind::Udp => icmp::datagram_unreachable(core, key.ends, why),
        Kind::Echo => {
            let ends = (key.ends.guest.ip(), key.ends.remote.ip());
            icmp::unreachable(core, ends, icmp::protocol(ends.0), data, why);
        }
    }
}
