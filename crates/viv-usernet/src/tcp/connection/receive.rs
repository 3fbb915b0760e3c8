//! From the guest to the socket.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};

use super::super::Budgets;
use super::super::ring::{self, Ring};
use super::super::segment::Segment;
use super::super::seq::Seq;
use crate::host;

/// What a window is told to hold even when there is no memory for it: most of the time the socket takes it at once.
const LEAST_WINDOW: usize = 64 << 10;
/// How much a window must have grown for the guest to be told.
const WORTH_TELLING: usize = ring::MAX / 4;

/// One direction of a connection.
#[derive(Debug, Default)]
pub(super) struct Receiver {
    /// The next byte that is expected.
    pub next: Seq,
    /// Up to where the guest may send.
    edge: Seq,
    /// By how much windows are shifted.
    pub shift: u8,
    /// What the socket had no room for.
    pub ring: Ring,
    /// Whether the socket may have room.
    pub writable: bool,
    /// The guest sends no more.
    fin: bool,
    /// The socket was told so.
    shut: bool,
}

impl Receiver {
    /// The guest's first byte is known.
    pub(super) fn begin(&mut self, next: Seq, shift: u8) {
        (self.next, self.edge, self.shift) = (next, next, shift);
    }

    /// Whether all that the guest will ever send has been passed on.
    pub(super) fn is_finished(&self) -> bool {
        self.shut
    }

    /// Takes what is new in a segment. Says whether the guest is to be told how far that is.
    pub(super) fn take(
        &mut self,
        budgets: &mut Budgets,
        socket: &OwnedFd,
        segment: &Segment<'_>,
    ) -> Result<bool, Errno> {
        let known = self.next.since(segment.seq);
        if segment.length() == 0 {
            // A sign of life has an old number and asks for one (RFC 9293, 3.8.4).
            return Ok(known != 0);
        }
        if self.fin || self.next.before(segment.seq) || known >= segment.length() {
            return Ok(true);
        }
        let data = segment.payload.get(known..).unwrap_or_default();
        let taken = self.accept(budgets, socket, data)?;
        self.next = self.next.plus(taken);
        if segment.flags.fin && taken == data.len() {
            self.fin = true;
            self.next = self.next.plus(1);
        }
        self.shut_if_done(socket);
        Ok(true)
    }

    /// Gives bytes to the socket, and keeps those that it does not take: how many are taken care of.
    fn accept(&mut self, budgets: &mut Budgets, socket: &OwnedFd, data: &[u8]) -> Result<usize, Errno> {
        let mut sent = 0;
        if self.ring.is_empty() && self.writable && !data.is_empty() {
            match host::send(socket, data) {
                Ok(length) => sent = length,
                Err(Errno::AGAIN) => {}
                Err(errno) => return Err(errno),
            }
            self.writable = sent == data.len();
        }
        let rest = data.get(sent..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(sent);
        }
        Ok(sent.saturating_add(self.ring.push(rest, &mut budgets.from_guest)))
    }

    /// The socket has room. Says whether the guest is to be told that it may send more.
    pub(super) fn pass_on(&mut self, budgets: &mut Budgets, socket: &OwnedFd) -> Result<bool, Errno> {
        match self.ring.drain(socket) {
            Ok(()) => {
                self.ring.release(&mut budgets.from_guest);
                self.shut_if_done(socket);
            }
            Err(Errno::AGAIN) => self.writable = false,
            Err(errno) => return Err(errno),
        }
        Ok(!self.fin && self.reach(budgets).since(self.edge) >= WORTH_TELLING)
    }

    fn shut_if_done(&mut self, socket: &OwnedFd) {
        if self.fin && !self.shut && self.ring.is_empty() {
            let _ = shutdown(socket, Shutdown::Write);
            self.shut = true;
        }
    }

    /// How much the guest could send.
    pub(super) fn offer(&self, budgets: &Budgets) -> usize {
        self.ring.room().min(budgets.from_guest.left().max(LEAST_WINDOW))
    }

    fn reach(&self, budgets: &Budgets) -> Seq {
        self.next.plus(self.offer(budgets))
    }

    /// The window as the guest is told it. What it was told once is not taken back.
    pub(super) fn window(&mut self, budgets: &Budgets) -> u16 {
        let reach = self.reach(budgets);
        if self.edge.before(reach) {
            self.edge = reach;
        }
        u16::try_from(self.edge.since(self.next) >> self.shift).unwrap_or(u16::MAX)
    }
}
