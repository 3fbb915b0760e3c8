//! A connection: bytes, credit, and how far each side is on its way to the end.

use std::collections::VecDeque;
use std::num::Wrapping;

use bitflags::bitflags;

use super::host::{Gone, VsockStream};
use super::regs::{HOST_CID, Header, STREAM, Shutdown, op};
use crate::virtio::Input;

/// How many bytes of the guest's are held for a host that does not take them: the credit of a connection.
pub(super) const BUFFER: u32 = 128 << 10;

/// The two ports of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ports {
    pub(super) guest: u32,
    pub(super) host: u32,
}

impl Ports {
    /// A packet to the guest.
    pub(super) fn header(self, guest_cid: u64, op: u16) -> Header {
        Header {
            src_cid: HOST_CID,
            dst_cid: guest_cid,
            src_port: self.host,
            dst_port: self.guest,
            kind: STREAM,
            op,
            ..Header::default()
        }
    }
}

/// How far the beginning is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The guest has asked, and the host has not answered.
    Asked,
    /// The host has asked, and the guest has not answered.
    Offered,
    Open,
}

bitflags! {
    /// Packets that the guest is to get.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Due: u8 {
        const REQUEST = 1;
        const RESPONSE = 2;
        const CREDIT_UPDATE = 4;
        /// With which it is over.
        const RST = 8;
    }
}

/// What to tell the guest next.
pub(super) struct Packet {
    pub(super) header: Header,
    /// Whether there is nothing after it.
    pub(super) is_last: bool,
}

pub(super) struct Connection {
    pub(super) ports: Ports,
    pub(super) phase: Phase,
    /// Whether it stands in the line of those that have something for the guest.
    pub(super) in_line: bool,
    stream: Option<Box<dyn VsockStream>>,
    /// Bytes of the guest's that the host has not taken.
    buffer: VecDeque<u8>,
    /// Bytes that came from the guest; of them those that went on; and what the guest knows of that.
    received: Wrapping<u32>,
    forwarded: Wrapping<u32>,
    told_forwarded: Wrapping<u32>,
    /// Bytes that went to the guest; of them those that it says went on; and how many may be between.
    sent: Wrapping<u32>,
    guest_forwarded: Wrapping<u32>,
    guest_buffer: u32,
    /// Whether the guest was asked for credit since it last had none.
    asked_credit: bool,
    /// Whether the stream may have something to give.
    readable: bool,
    due: Due,
    guest_ended: Shutdown,
    host_ended: Shutdown,
    /// What the guest knows of that.
    told_ended: Shutdown,
    /// Whether the stream was told that the guest sends no more.
    told_output_end: bool,
    /// The guest has forgotten it, but what it had sent before is still to go on.
    is_orphan: bool,
}

impl Connection {
    fn new(ports: Ports, phase: Phase, due: Due, stream: Option<Box<dyn VsockStream>>) -> Self {
        Self {
            ports,
            phase,
            in_line: false,
            stream,
            buffer: VecDeque::new(),
            received: Wrapping(0),
            forwarded: Wrapping(0),
            told_forwarded: Wrapping(0),
            sent: Wrapping(0),
            guest_forwarded: Wrapping(0),
            guest_buffer: 0,
            asked_credit: false,
            readable: false,
            due,
            guest_ended: Shutdown::empty(),
            host_ended: Shutdown::empty(),
            told_ended: Shutdown::empty(),
            told_output_end: false,
            is_orphan: false,
        }
    }

    /// One that the guest asks for.
    pub(super) fn asked(ports: Ports, header: &Header) -> Self {
        let mut connection = Self::new(ports, Phase::Asked, Due::empty(), None);
        connection.note_credit(header);
        connection
    }

    /// One that the host asks for.
    pub(super) fn offered(ports: Ports, stream: Box<dyn VsockStream>) -> Self {
        Self::new(ports, Phase::Offered, Due::REQUEST, Some(stream))
    }

    /// The host has answered what the guest asked.
    pub(super) fn answer(&mut self, stream: Option<Box<dyn VsockStream>>) {
        match stream {
            Some(stream) if self.phase == Phase::Asked => {
                self.stream = Some(stream);
                self.phase = Phase::Open;
                self.readable = true;
                self.due |= Due::RESPONSE;
                self.forward();
            }
            Some(_) | None => self.break_off(),
        }
    }

    /// Ends it at once.
    pub(super) fn break_off(&mut self) {
        self.due = Due::RST;
    }

    /// The guest has broken it off. Returns whether it has to stay, for bytes that are to go on.
    pub(super) fn abandon(&mut self) -> bool {
        self.is_orphan = self.guest_ended.contains(Shutdown::SEND) && !self.buffer.is_empty();
        self.due = Due::empty();
        self.is_orphan
    }

    /// Whether the guest has forgotten it and nothing of it is left.
    pub(super) fn is_over(&self) -> bool {
        self.is_orphan && self.buffer.is_empty()
    }

    /// The guest has said something, with `data` behind it.
    pub(super) fn receive(&mut self, header: &Header, data: &[u8]) {
        self.note_credit(header);
        match (header.op, self.phase) {
            (op::RESPONSE, Phase::Offered) => {
                self.phase = Phase::Open;
                self.readable = true;
                if let Some(stream) = &mut self.stream {
                    stream.accepted(self.ports.host);
                }
            }
            (op::RW, Phase::Open) if !self.guest_ended.contains(Shutdown::SEND) => self.receive_data(data),
            (op::SHUTDOWN, Phase::Open | Phase::Asked) => {
                let more = Shutdown::from_bits_truncate(header.flags).difference(self.guest_ended);
                self.guest_ended |= more;
                if more.contains(Shutdown::RECEIVE)
                    && let Some(stream) = &mut self.stream
                {
                    stream.end_input();
                }
                self.forward();
            }
            (op::CREDIT_UPDATE, Phase::Open) => {}
            (op::CREDIT_REQUEST, Phase::Open) => self.due |= Due::CREDIT_UPDATE,
            _ => self.break_off(),
        }
    }

    fn note_credit(&mut self, header: &Header) {
        self.guest_buffer = header.buf_alloc;
        self.guest_forwarded = Wrapping(header.fwd_cnt);
        self.asked_credit &= self.credit() == 0;
    }

    /// How many bytes the guest has room for.
    fn credit(&self) -> u32 {
        self.guest_buffer.saturating_sub((self.sent - self.guest_forwarded).0)
    }

    fn receive_data(&mut self, data: &[u8]) {
        let held = self.received - self.forwarded;
        let Some(length) =
            u32::try_from(data.len()).ok().filter(|length| *length <= BUFFER.saturating_sub(held.0))
        else {
            return self.break_off();
        };
        self.received += length;
        let mut rest = data;
        // Without a copy, as far as the host keeps up.
        if self.buffer.is_empty()
            && let Some(stream) = &mut self.stream
            && let Ok(taken) = stream.write(data)
        {
            let taken = taken.min(data.len());
            self.forwarded += u32::try_from(taken).unwrap_or_default();
            rest = data.get(taken..).unwrap_or_default();
        }
        self.buffer.extend(rest);
        self.forward();
    }

    /// The stream has bytes, room, or came to its end.
    pub(super) fn process_stream(&mut self) {
        self.readable = true;
        self.forward();
        if self.host_ended.contains(Shutdown::SEND) && self.is_gone() {
            self.host_ended |= Shutdown::RECEIVE;
        }
        if self.phase == Phase::Offered && self.is_gone() {
            self.break_off();
        }
    }

    fn is_gone(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.is_gone())
    }

    /// Passes on what the host takes of the guest's bytes, and after the last of them their end.
    fn forward(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        while !self.buffer.is_empty() {
            let (front, _) = self.buffer.as_slices();
            let length = front.len();
            let taken = match stream.write(front) {
                Ok(taken) => taken.min(length),
                Err(Gone) => {
                    // What nobody reads is dropped, so that the guest sees the end and not a silence.
                    self.host_ended |= Shutdown::RECEIVE;
                    self.buffer.len()
                }
            };
            self.buffer.drain(..taken.min(self.buffer.len()));
            self.forwarded += u32::try_from(taken).unwrap_or_default();
            if taken < length {
                break;
            }
        }
        if self.buffer.is_empty() {
            // One that was full once need not be so again.
            self.buffer = VecDeque::new();
            if self.guest_ended.contains(Shutdown::SEND) && !self.told_output_end {
                self.told_output_end = true;
                stream.end_output();
            }
            if self.guest_ended.is_all() && !self.is_orphan {
                self.due |= Due::RST;
            }
        }
        self.offer_credit();
    }

    /// Has the guest told of room once that is worth a packet.
    fn offer_credit(&mut self) {
        if (self.forwarded - self.told_forwarded).0 >= BUFFER / 2 {
            self.due |= Due::CREDIT_UPDATE;
        }
    }

    /// Whether [`Connection::next_packet`] may have one.
    pub(super) fn has_packet(&self) -> bool {
        let ends = self.phase == Phase::Open && self.told_ended != self.host_ended;
        !self.is_orphan && (!self.due.is_empty() || ends || self.may_read())
    }

    fn may_read(&self) -> bool {
        self.phase == Phase::Open
            && self.readable
            && !self.host_ended.contains(Shutdown::SEND)
            && !self.guest_ended.contains(Shutdown::RECEIVE)
            && !(self.asked_credit && self.credit() == 0)
    }

    /// What to tell the guest next. Bytes of the stream go into `data`, which is where the guest has room for them.
    pub(super) fn next_packet(&mut self, guest_cid: u64, data: &mut [u8]) -> Option<Packet> {
        let mut flags = 0;
        let mut length = 0;
        let op = if self.due.contains(Due::RST) {
            op::RST
        } else if self.due.contains(Due::REQUEST) {
            self.due.remove(Due::REQUEST);
            op::REQUEST
        } else if self.due.contains(Due::RESPONSE) {
            self.due.remove(Due::RESPONSE);
            op::RESPONSE
        } else if let Some(op) = self.read(data, &mut length) {
            op
        } else if self.phase == Phase::Open && self.told_ended != self.host_ended {
            self.told_ended = self.host_ended;
            flags = self.host_ended.bits();
            op::SHUTDOWN
        } else if self.due.contains(Due::CREDIT_UPDATE) {
            op::CREDIT_UPDATE
        } else {
            return None;
        };
        // Every packet tells of credit.
        self.told_forwarded = self.forwarded;
        self.due.remove(Due::CREDIT_UPDATE);
        let header = Header {
            len: length,
            flags,
            buf_alloc: BUFFER,
            fwd_cnt: self.forwarded.0,
            ..self.ports.header(guest_cid, op)
        };
        Some(Packet { header, is_last: op == op::RST })
    }

    /// Reads from the stream as far as the guest has room, or asks the guest for some.
    fn read(&mut self, data: &mut [u8], length: &mut u32) -> Option<u16> {
        if !self.may_read() || data.is_empty() {
            return None;
        }
        let credit = self.credit();
        if credit == 0 {
            self.asked_credit = true;
            return Some(op::CREDIT_REQUEST);
        }
        let room = data.len().min(usize::try_from(credit).unwrap_or(usize::MAX));
        let stream = self.stream.as_mut()?;
        match stream.read(data.get_mut(..room).unwrap_or_default()) {
            Input::Bytes(count) => {
                *length = u32::try_from(count.min(room)).unwrap_or_default();
                self.sent += *length;
                Some(op::RW)
            }
            Input::Nothing => {
                self.readable = false;
                None
            }
            Input::End => {
                self.readable = false;
                self.host_ended |= Shutdown::SEND;
                if self.is_gone() {
                    self.host_ended |= Shutdown::RECEIVE;
                }
                None
            }
        }
    }
}
