//! TCP: the guest's connections end here, and each is spliced to a socket of the host.
//!
//! A connection of the guest's is accepted when the host has connected, and refused when the host was refused. Data goes
//! from one side to the other as far as the other takes it; what is on its way lies in rings that are limited, each
//! and all together, and then the window closes, or the socket is not read.

mod connection;
mod ring;
mod segment;
mod seq;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::io::Errno;

use crate::core::{Core, Token};
use crate::flow::Ends;
use crate::frame::Packet;
use crate::host::{self, Event};
use crate::offload::{Checksum, Offload};
use crate::policy::{self, Way};
use crate::publish::{self, Published};
use crate::saved::SavedConnection;
use crate::slots::{Id, Slots};

use connection::{Connection, Fate};
use ring::Budget;
use segment::{Flags, Head, Segment};
use seq::Seq;

/// How many connections are accepted at a published port before others have their turn.
const ACCEPT_AT_ONCE: usize = 64;

/// The memory of all connections.
#[derive(Debug)]
pub(crate) struct Budgets {
    from_guest: Budget,
    to_guest: Budget,
}

/// All connections.
#[derive(Debug)]
pub(crate) struct Connections {
    connections: Slots<Connection>,
    by_ends: HashMap<Ends, Id>,
    budgets: Budgets,
    /// What first numbers are made from (RFC 6528).
    secret: RandomState,
    start: Instant,
}

impl Connections {
    pub(crate) fn new(limit: usize, buffered: usize) -> Self {
        Self {
            connections: Slots::new(limit),
            by_ends: HashMap::new(),
            budgets: Budgets { from_guest: Budget::new(buffered), to_guest: Budget::new(buffered) },
            secret: RandomState::new(),
            start: Instant::now(),
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.connections.len()
    }

    /// Whether a connection is still there.
    pub(crate) fn is_live(&mut self, id: Id) -> bool {
        self.connections.get_mut(id).is_some()
    }

    /// Ends all connections.
    pub(crate) fn clear(&mut self) {
        let ids: Vec<_> = self.connections.iter().map(|(id, _)| id).collect();
        ids.into_iter().for_each(|id| self.remove(id));
    }

    /// Bytes of memory for data on its way to the guest.
    #[cfg(test)]
    pub(crate) fn buffered(&self) -> usize {
        self.connections.iter().map(|(_, connection)| connection.buffered()).sum()
    }

    /// What is to be known of them when they are gone.
    pub(crate) fn saved(&self) -> impl Iterator<Item = SavedConnection> {
        self.connections.iter().map(|(_, connection)| connection.saved())
    }

    fn remove(&mut self, id: Id) {
        if let Some(mut connection) = self.connections.remove(id) {
            self.by_ends.remove(&connection.ends);
            connection.discard(&mut self.budgets);
        }
    }

    /// The first number of a connection.
    fn first_number(&self, ends: Ends) -> Seq {
        // It goes on by one every 4 microseconds.
        let clock = self.start.elapsed().as_micros() / 4;
        Seq((self.secret.hash_one(ends) as u32).wrapping_add(clock as u32))
    }

    /// A packet of the guest's.
    pub(crate) fn packet(&mut self, core: &mut Core, packet: &Packet<'_>, sum: Checksum) {
        let Some(segment) = Segment::parse(packet, sum) else { return };
        let Some(&id) = self.by_ends.get(&segment.ends) else {
            return self.unknown(core, &segment);
        };
        if let Some(connection) = self.connections.get_mut(id) {
            connection.segment(core, &mut self.budgets, Token::Connection(id), &segment);
        }
        self.settle(core, id);
    }

    /// A segment of no connection: the guest asks for one, or is told that there is none.
    fn unknown(&mut self, core: &mut Core, segment: &Segment<'_>) {
        let flags = segment.flags;
        if !flags.syn || flags.ack || flags.rst {
            return segment::refuse(core, segment);
        }
        let target = match policy::way(core, segment.ends.remote) {
            Way::Silent => return,
            Way::Host(target) => Some(target),
            Way::Dns => core.resolvers.current(),
            Way::Refused => None,
        };
        if self.connections.is_full() {
            core.warn("connections of the guest are refused: it has as many as it may");
            return segment::refuse(core, segment);
        }
        let socket = target.and_then(|target| connect(core, target));
        let Some(socket) = socket else { return segment::refuse(core, segment) };
        let first = self.first_number(segment.ends);
        let connection = Connection::asked(core, segment, socket, first);
        if self.insert(core, connection).is_none() {
            segment::refuse(core, segment);
        }
    }

    fn insert(&mut self, core: &mut Core, connection: Connection) -> Option<Id> {
        let ends = connection.ends;
        let id = self.connections.insert_with(|id| {
            core.host.watch(connection.socket(), Token::Connection(id)).ok()?;
            Some(connection)
        })?;
        self.by_ends.insert(ends, id);
        Some(id)
    }

    /// Takes the connections that wait at published ports.
    pub(crate) fn accept(&mut self, core: &mut Core, published: &mut Published, id: Id) {
        for _ in 0..ACCEPT_AT_ONCE {
            let Some(port) = published.get_mut(id).filter(|port| port.readable) else { return };
            if self.connections.is_full() {
                return;
            }
            match host::accept(&port.socket) {
                Ok((socket, peer)) => {
                    let guest_port = port.publish.guest_port;
                    self.call(core, socket, peer, guest_port);
                }
                Err(Errno::AGAIN) => port.readable = false,
                Err(Errno::CONNABORTED) => {}
                // There are too many open files: those that wait go on waiting.
                Err(_) => return,
            }
        }
    }

    /// Asks the guest to accept a connection.
    fn call(&mut self, core: &mut Core, socket: OwnedFd, peer: SocketAddr, guest_port: u16) {
        let (guest, remote) = publish::guest_ends(core, peer, guest_port);
        let ends = Ends { guest, remote };
        // Two peers may look alike to the guest; the second is let go.
        if self.by_ends.contains_key(&ends) {
            return;
        }
        host::prepare_stream(&socket);
        let first = self.first_number(ends);
        if let Some(id) = self.insert(core, Connection::called(ends, socket, first)) {
            self.settle(core, id);
        }
    }

    /// A connection's socket has something, or room.
    pub(crate) fn event(&mut self, core: &mut Core, id: Id, event: &Event) {
        if let Some(connection) = self.connections.get_mut(id) {
            connection.event(&mut self.budgets, event);
            self.settle(core, id);
        }
    }

    /// An entry of the timers is due.
    pub(crate) fn expired(&mut self, core: &mut Core, id: Id, entry: Instant, now: Instant) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if core.timers.goes_off(&mut connection.alarm, Token::Connection(id), entry, now) {
            connection.timeout();
            self.settle(core, id);
        }
    }

    /// Gives the next frame of a connection whose turn it is.
    pub(crate) fn produce(&mut self, core: &mut Core, id: Id, out: &mut Vec<u8>) -> Option<Offload> {
        let connection = self.connections.get_mut(id)?;
        connection.queued = false;
        let offload = connection.produce(core, &mut self.budgets, Token::Connection(id), out);
        self.settle(core, id);
        offload
    }

    /// Gives a connection a turn if it wants one, and ends it if it is over.
    fn settle(&mut self, core: &mut Core, id: Id) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        match connection.fate() {
            Fate::Ends => self.remove(id),
            Fate::Wants if !connection.queued => {
                connection.queued = true;
                core.ready.push_back(Token::Connection(id));
            }
            _ => {}
        }
    }
}

/// Builds the frame that tells the guest that a connection is gone.
pub(crate) fn reset(core: &Core, gone: &SavedConnection, frame: &mut Vec<u8>) -> Option<Offload> {
    let flags = Flags { rst: true, ack: gone.ack.is_some(), ..Flags::default() };
    let ends = Ends { guest: gone.guest, remote: gone.remote };
    let (seq, ack) = (Seq(gone.seq), Seq(gone.ack.unwrap_or_default()));
    let head = Head { ends, seq, ack, window: 0, flags, terms: None, cut: u16::MAX };
    segment::build(core, frame, &head, 0, |_| {})
}

fn connect(core: &mut Core, target: SocketAddr) -> Option<OwnedFd> {
    match host::connect_stream(target) {
        Ok(socket) => Some(socket),
        Err(errno) => {
            if matches!(errno, Errno::MFILE | Errno::NFILE) {
                core.warn("connections of the guest are refused: this process has too many open files");
            }
            None
        }
    }
}
