//! From the socket to the guest.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::super::Budgets;
use super::super::ring::Ring;
use super::super::segment::{MAX_PACKET, Segment, Terms};
use super::super::seq::Seq;
use crate::flow::Ends;
use crate::offload::GuestOffloads;

/// How much is kept ready for the guest beyond what is under way, in bytes.
const AHEAD: usize = 128 << 10;
/// How much is read at first; more, once that was not enough.
const FIRST_READ: usize = 16 << 10;
/// IPv6 and TCP without options, in bytes.
const HEADERS: usize = 60;
/// How many acknowledgements of the same byte say that the next one is lost (RFC 5681, 3.2).
const DUPLICATES: u8 = 3;

/// What an acknowledgement says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Acknowledged {
    /// It is of what was never sent.
    Impossible,
    Nothing,
    Data,
}

/// The other direction of a connection.
#[derive(Debug)]
pub(super) struct Sender {
    /// The number of the SYN.
    pub first: Seq,
    /// The first byte that is not acknowledged.
    unacknowledged: Seq,
    /// The next byte to be sent.
    pub next: Seq,
    /// The first byte that was never sent.
    highest: Seq,
    /// How much the guest takes from `unacknowledged` on, in bytes.
    pub window: usize,
    /// By how much its windows are shifted.
    shift: u8,
    /// The payload of a full segment, in bytes.
    pub mss: u16,
    /// The bytes from `unacknowledged` on.
    pub ring: Ring,
    /// Whether the socket may have something.
    pub readable: bool,
    /// Whether the socket's end may be near: then it is read until it is there.
    pub ends: bool,
    /// The socket has no more.
    end: bool,
    /// The guest knows that.
    end_known: bool,
    /// How much is read at a time.
    read: usize,
    duplicates: u8,
    /// There was no memory to read into. There is again when the guest has acknowledged something: each ring has some, so
    /// this one is full.
    starved: bool,
    /// The guest's window is to be tried.
    probe: bool,
}

impl Sender {
    pub(super) fn new(first: Seq) -> Self {
        Self {
            first,
            unacknowledged: first,
            next: first,
            highest: first.plus(1),
            window: 0,
            shift: 0,
            mss: 0,
            ring: Ring::default(),
            readable: false,
            ends: false,
            end: false,
            end_known: false,
            read: FIRST_READ,
            duplicates: 0,
            starved: false,
            probe: false,
        }
    }

    /// Takes what the guest's SYN says; `largest` is what fits on the link.
    pub(super) fn agree(&mut self, terms: Terms, largest: u16) {
        self.mss = terms.mss.min(largest).max(1);
        self.shift = terms.shift.unwrap_or(0);
    }

    /// The guest knows the first number.
    pub(super) fn begin(&mut self) {
        let start = self.first.plus(1);
        (self.unacknowledged, self.next, self.highest) = (start, start, start);
    }

    /// How much was sent that the guest does not acknowledge yet, in bytes.
    pub(super) fn in_flight(&self) -> usize {
        self.next.since(self.unacknowledged)
    }

    /// The first number that was never sent; that of the SYN counts as sent.
    pub(super) fn reached(&self) -> Seq {
        self.highest
    }

    /// How much was not sent yet, in bytes.
    pub(super) fn unsent(&self) -> usize {
        self.ring.len().saturating_sub(self.in_flight())
    }

    /// How much more the guest takes, in bytes.
    fn usable(&self) -> usize {
        self.window.saturating_sub(self.in_flight())
    }

    /// Whether all is sent and known.
    pub(super) fn is_finished(&self) -> bool {
        self.end_known
    }

    /// Whether the guest is to be told that there is no more.
    pub(super) fn has_fin(&self) -> bool {
        self.end && !self.end_known && self.in_flight() == self.ring.len()
    }

    /// Whether the socket is to be read.
    fn reads(&self) -> bool {
        self.readable && !self.end && !self.starved && self.ring.room() != 0 && self.unsent() < AHEAD
    }

    /// Whether there may be something to send.
    pub(super) fn wants(&self) -> bool {
        let sends = self.unsent() != 0 && (self.probe || self.is_worth_sending(self.unsent()));
        self.reads() || sends || self.has_fin()
    }

    /// Whether what the window lets through is enough for a segment (RFC 1122, 4.2.3.4).
    fn is_worth_sending(&self, unsent: usize) -> bool {
        let usable = self.usable();
        usable != 0 && (usable >= unsent || usable >= self.mss.into() || self.in_flight() == 0)
    }

    /// Whether data waits for a window, and nothing that is under way will open it.
    pub(super) fn is_stuck(&self) -> bool {
        self.unsent() != 0 && self.in_flight() == 0
    }

    /// Reads from the socket, if there is need.
    pub(super) fn fill(&mut self, budgets: &mut Budgets, socket: &OwnedFd) -> Result<(), Errno> {
        if !self.reads() {
            return Ok(());
        }
        let limit = self.read.min(self.ring.room());
        match self.ring.fill(socket, limit, &mut budgets.to_guest) {
            Ok((0, _)) => {
                self.end = true;
                self.readable = false;
            }
            Ok((read, is_all)) => {
                if read >= limit {
                    self.read = limit.saturating_mul(2).clamp(FIRST_READ, AHEAD);
                }
                // The socket tells of what comes next; its end it may have told already.
                self.readable = !is_all || self.ends;
            }
            Err(Errno::AGAIN) => self.readable = false,
            Err(Errno::NOBUFS) => self.starved = true,
            Err(errno) => return Err(errno),
        }
        Ok(())
    }

    /// How much one frame may carry.
    pub(super) fn chunk(&self, offloads: GuestOffloads, ends: Ends) -> usize {
        let uncut = if ends.guest.is_ipv4() { offloads.tso4 } else { offloads.tso6 };
        let mss = usize::from(self.mss);
        if !uncut || !offloads.checksum {
            return mss;
        }
        let most = MAX_PACKET.saturating_sub(HEADERS);
        most.saturating_sub(most.checked_rem(mss).unwrap_or(0)).max(mss)
    }

    /// How much is to be sent now, of `chunk` at the most.
    pub(super) fn sendable(&mut self, chunk: usize) -> usize {
        let unsent = self.unsent();
        if unsent == 0 || self.in_flight() > self.ring.len() {
            return 0;
        }
        if self.is_worth_sending(unsent) {
            return unsent.min(self.usable()).min(chunk);
        }
        usize::from(std::mem::take(&mut self.probe))
    }

    /// So much was sent, or that there is no more.
    pub(super) fn sent(&mut self, length: usize, fin: bool) {
        self.probe = false;
        self.next = self.next.plus(length.saturating_add(fin.into()));
        if self.highest.before(self.next) {
            self.highest = self.next;
        }
    }

    /// Sends again what is not acknowledged, and tries a window that is closed.
    pub(super) fn again(&mut self) {
        self.next = self.unacknowledged;
        self.duplicates = 0;
        self.probe = true;
    }

    /// Gives memory back that is not in use.
    pub(super) fn rest(&mut self, budgets: &mut Budgets) {
        self.ring.release(&mut budgets.to_guest);
        if self.ring.is_empty() {
            self.read = FIRST_READ;
        }
    }

    /// Takes what a segment says about what was sent.
    pub(super) fn acknowledged(&mut self, budgets: &mut Budgets, segment: &Segment<'_>) -> Acknowledged {
        if self.highest.before(segment.ack) {
            return Acknowledged::Impossible;
        }
        if segment.ack.before(self.unacknowledged) {
            return Acknowledged::Nothing;
        }
        let window = usize::from(segment.window) << self.shift;
        let acknowledged = segment.ack.since(self.unacknowledged);
        if acknowledged == 0 {
            let repeats = self.in_flight() != 0 && segment.length() == 0 && window == self.window;
            self.window = window;
            self.duplicates = if repeats { self.duplicates.saturating_add(1) } else { 0 };
            if self.duplicates == DUPLICATES {
                self.next = self.unacknowledged;
            }
            return Acknowledged::Nothing;
        }
        self.window = window;
        self.duplicates = 0;
        self.starved = false;
        self.end_known |= self.end && acknowledged > self.ring.len();
        self.ring.consume(acknowledged);
        self.unacknowledged = segment.ack;
        if self.next.before(segment.ack) {
            self.next = segment.ack;
        }
        if self.ring.is_empty() && !self.readable {
            self.ring.release(&mut budgets.to_guest);
        }
        Acknowledged::Data
    }
}
