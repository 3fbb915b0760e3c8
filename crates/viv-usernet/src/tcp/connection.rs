//! One TCP connection of the guest's, and the socket it is spliced to.
//!
//! To the guest this is the other end (RFC 9293). The link loses nothing and keeps the order, so there is no congestion
//! control towards it: its window alone says how much is under way. What a driver drops is sent again, from the first byte
//! that is missing on. Towards the world all of that is the host's business.

mod receive;
mod send;

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::sockopt;

use super::Budgets;
use super::segment::{self, Flags, Head, OUR_SHIFT, Segment, Terms};
use super::seq::Seq;
use crate::core::{Core, Token};
use crate::flow::Ends;
use crate::host::Event;
use crate::offload::Offload;
use crate::saved::SavedConnection;
use crate::timers::Alarm;

use receive::Receiver;
use send::Sender;

/// How long an acknowledgement is waited for, at first.
const TIMEOUT: Duration = Duration::from_secs(1);
/// By how much that is doubled at the most, as a power of two.
const MAX_BACKOFF: u32 = 5;
/// After how many repetitions the guest is taken for gone.
const MAX_RETRIES: u32 = 10;

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The guest asked; the host connects.
    Connecting,
    /// The host is connected, the guest has still to say that it knows (SYN-RECEIVED).
    Offered,
    /// The host accepted; the guest has still to agree (SYN-SENT).
    Calling,
    /// Both ends know (ESTABLISHED, and all that follows).
    Open,
}

/// What becomes of a connection after something happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It has nothing for the guest.
    Rests,
    /// It wants a turn.
    Wants,
    /// It is over.
    Ends,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub ends: Ends,
    pub alarm: Alarm,
    /// Whether it is in turn to give frames to the guest.
    pub queued: bool,
    socket: OwnedFd,
    phase: Phase,
    receiver: Receiver,
    sender: Sender,
    /// A segment is due, whatever else there is: an acknowledgement, or the next step of the handshake.
    owed: bool,
    /// The guest is to be told that the other end is gone.
    broken: bool,
    over: bool,
    retries: u32,
}

impl Connection {
    /// A connection that the guest asked for by `syn`; `socket` is connecting.
    pub(super) fn asked(core: &Core, syn: &Segment<'_>, socket: OwnedFd, first: Seq) -> Self {
        let mut connection = Self::new(syn.ends, socket, Phase::Connecting, first);
        connection.agree(core, syn);
        connection
    }

    /// A connection that the host accepted, of which the guest knows nothing yet.
    pub(super) fn called(ends: Ends, socket: OwnedFd, first: Seq) -> Self {
        let mut connection = Self::new(ends, socket, Phase::Calling, first);
        connection.sender.readable = true;
        connection.receiver.writable = true;
        connection.owed = true;
        connection
    }

    fn new(ends: Ends, socket: OwnedFd, phase: Phase, first: Seq) -> Self {
        Self {
            ends,
            alarm: Alarm::default(),
            queued: false,
            socket,
            phase,
            receiver: Receiver::default(),
            sender: Sender::new(first),
            owed: false,
            broken: false,
            over: false,
            retries: 0,
        }
    }

    pub(super) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    #[cfg(test)]
    pub(super) fn buffered(&self) -> usize {
        self.sender.ring.capacity()
    }

    /// What is to be known of it when it is gone. What is under way arrives before that is told.
    pub(super) fn saved(&self) -> SavedConnection {
        let ack = (self.phase != Phase::Calling).then_some(self.receiver.next.0);
        SavedConnection {
            guest: self.ends.guest,
            remote: self.ends.remote,
            seq: self.sender.reached().0,
            ack,
        }
    }

    /// Takes what the guest's SYN says.
    fn agree(&mut self, core: &Core, syn: &Segment<'_>) {
        let terms = syn.terms();
        self.receiver.begin(syn.seq.plus(1), terms.shift.map_or(0, |_| OUR_SHIFT));
        self.sender.agree(terms, segment::largest(core, self.ends));
    }

    /// What becomes of it, as things stand.
    pub(super) fn fate(&self) -> Fate {
        let finished = self.receiver.is_finished() && self.sender.is_finished() && !self.owed;
        if self.over || (self.phase == Phase::Open && finished) {
            Fate::Ends
        } else if self.broken || self.owed || (self.phase == Phase::Open && self.sender.wants()) {
            Fate::Wants
        } else {
            Fate::Rests
        }
    }

    /// A segment of the guest's.
    pub(super) fn segment(
        &mut self,
        core: &mut Core,
        budgets: &mut Budgets,
        token: Token,
        segment: &Segment<'_>,
    ) {
        match self.phase {
            Phase::Connecting => {
                if segment.flags.rst {
                    self.abort();
                }
            }
            Phase::Offered => self.answer_to_offer(core, budgets, token, segment),
            Phase::Calling => self.answer_to_call(core, segment),
            Phase::Open => self.open_segment(core, budgets, token, segment),
        }
    }

    fn answer_to_offer(
        &mut self,
        core: &mut Core,
        budgets: &mut Budgets,
        token: Token,
        segment: &Segment<'_>,
    ) {
        let flags = segment.flags;
        if flags.rst {
            if segment.seq == self.receiver.next {
                self.abort();
            }
        } else if flags.syn {
            // It has not heard us.
            self.owed = true;
        } else if flags.ack && segment.ack == self.sender.first.plus(1) {
            self.open();
            self.open_segment(core, budgets, token, segment);
        }
    }

    fn answer_to_call(&mut self, core: &Core, segment: &Segment<'_>) {
        let flags = segment.flags;
        if !flags.ack || segment.ack != self.sender.first.plus(1) {
            return;
        }
        if flags.rst {
            self.abort();
        } else if flags.syn {
            self.agree(core, segment);
            self.sender.window = segment.window.into();
            self.open();
            self.owed = true;
        }
    }

    /// The handshake is done.
    fn open(&mut self) {
        self.phase = Phase::Open;
        self.sender.begin();
        self.owed = false;
        self.retries = 0;
        self.alarm.clear();
    }

    fn open_segment(&mut self, core: &mut Core, budgets: &mut Budgets, token: Token, segment: &Segment<'_>) {
        let flags = segment.flags;
        if flags.rst {
            // Only the exact number is believed (RFC 5961, 3).
            if segment.seq == self.receiver.next {
                self.abort();
            } else {
                self.owed = true;
            }
            return;
        }
        if flags.syn || !flags.ack {
            self.owed = true;
            return;
        }
        match self.sender.acknowledged(budgets, segment) {
            send::Acknowledged::Impossible => {
                self.owed = true;
                return;
            }
            send::Acknowledged::Nothing => self.retries = 0,
            // What is still under way is waited for anew (RFC 6298, 5.2 and 5.3).
            send::Acknowledged::Data => {
                self.retries = 0;
                if self.sender.in_flight() == 0 { self.alarm.clear() } else { self.arm(core, token) }
            }
        }
        match self.receiver.take(budgets, &self.socket, segment) {
            Ok(owed) => self.owed |= owed,
            Err(_) => self.broken = true,
        }
    }

    /// Its socket has something, or room.
    pub(super) fn event(&mut self, budgets: &mut Budgets, event: &Event) {
        let writable = event.writable;
        self.sender.readable |= event.readable;
        self.sender.ends |= event.ends;
        self.receiver.writable |= writable;
        match self.phase {
            Phase::Connecting if writable => match sockopt::socket_error(&self.socket) {
                Ok(Ok(())) => {
                    self.phase = Phase::Offered;
                    self.owed = true;
                }
                _ => self.broken = true,
            },
            Phase::Open if writable => match self.receiver.pass_on(budgets, &self.socket) {
                Ok(owed) => self.owed |= owed,
                Err(_) => self.broken = true,
            },
            _ => {}
        }
    }

    /// Nothing was heard from the guest for too long.
    pub(super) fn timeout(&mut self) {
        if self.retries >= MAX_RETRIES {
            self.abort();
            return;
        }
        self.retries = self.retries.saturating_add(1);
        match self.phase {
            Phase::Connecting => {}
            Phase::Offered | Phase::Calling => self.owed = true,
            Phase::Open => self.sender.again(),
        }
    }

    /// Ends it, and tells the other end that it was not in order.
    fn abort(&mut self) {
        let _ = sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO));
        self.over = true;
    }

    /// Gives its memory back.
    pub(super) fn discard(&mut self, budgets: &mut Budgets) {
        self.receiver.ring.discard(&mut budgets.from_guest);
        self.sender.ring.discard(&mut budgets.to_guest);
    }

    /// Builds its next frame.
    pub(super) fn produce(
        &mut self,
        core: &mut Core,
        budgets: &mut Budgets,
        token: Token,
        out: &mut Vec<u8>,
    ) -> Option<Offload> {
        if self.broken {
            self.over = true;
            let flags = Flags { rst: true, ack: true, ..Flags::default() };
            return self.build(core, budgets, out, flags, 0);
        }
        match self.phase {
            Phase::Connecting => None,
            Phase::Offered | Phase::Calling => self.shake_hands(core, budgets, token, out),
            Phase::Open => self.produce_open(core, budgets, token, out),
        }
    }

    fn shake_hands(
        &mut self,
        core: &mut Core,
        budgets: &mut Budgets,
        token: Token,
        out: &mut Vec<u8>,
    ) -> Option<Offload> {
        if !self.owed {
            return None;
        }
        let called = self.phase == Phase::Calling;
        // Windows are shifted if both ends want it, and the one who asks wants it (RFC 7323, 2.2).
        let shift = (called || self.receiver.shift != 0).then_some(OUR_SHIFT);
        let terms = Terms { mss: segment::largest(core, self.ends), shift };
        let flags = Flags { syn: true, ack: !called, ..Flags::default() };
        let window = u16::try_from(self.receiver.offer(budgets)).unwrap_or(u16::MAX);
        let head = Head {
            ends: self.ends,
            seq: self.sender.first,
            ack: self.receiver.next,
            window,
            flags,
            terms: Some(terms),
            cut: u16::MAX,
        };
        self.owed = false;
        self.arm(core, token);
        segment::build(core, out, &head, 0, |_| {})
    }

    fn produce_open(
        &mut self,
        core: &mut Core,
        budgets: &mut Budgets,
        token: Token,
        out: &mut Vec<u8>,
    ) -> Option<Offload> {
        if self.sender.fill(budgets, &self.socket).is_err() {
            self.broken = true;
            return self.produce(core, budgets, token, out);
        }
        let size = self.sender.chunk(core.offloads, self.ends);
        let length = self.sender.sendable(size);
        let fin = length == 0 && self.sender.has_fin();
        if length == 0 && !fin {
            let owed = std::mem::take(&mut self.owed);
            if self.sender.is_stuck() {
                self.arm(core, token);
            }
            self.sender.rest(budgets);
            return if owed {
                self.build(core, budgets, out, Flags { ack: true, ..Flags::default() }, 0)
            } else {
                None
            };
        }
        let psh = length != 0 && length == self.sender.unsent();
        let flags = Flags { ack: true, psh, fin, ..Flags::default() };
        let offload = self.build(core, budgets, out, flags, length);
        self.sender.sent(length, fin);
        self.owed = false;
        if self.alarm.due().is_none() {
            self.arm(core, token);
        }
        offload
    }

    /// Sets the alarm for an answer of the guest's.
    fn arm(&mut self, core: &mut Core, token: Token) {
        let wait = TIMEOUT.saturating_mul(1 << self.retries.min(MAX_BACKOFF));
        core.set_alarm(&mut self.alarm, token, wait);
    }

    fn build(
        &mut self,
        core: &Core,
        budgets: &Budgets,
        out: &mut Vec<u8>,
        flags: Flags,
        length: usize,
    ) -> Option<Offload> {
        let head = Head {
            ends: self.ends,
            seq: self.sender.next,
            ack: self.receiver.next,
            window: self.receiver.window(budgets),
            flags,
            terms: None,
            cut: self.sender.mss,
        };
        let (ring, offset) = (&self.sender.ring, self.sender.in_flight());
        segment::build(core, out, &head, length, |to| ring.copy(offset, to))
    }
}
