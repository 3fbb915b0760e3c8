//! TCP segments taken apart and built (RFC 9293, 3.1).

use smoltcp::wire::{ETHERNET_HEADER_LEN, IpProtocol, TCP_HEADER_LEN, TcpOption, TcpPacket, TcpSeqNumber};

use super::seq::Seq;
use crate::core::Core;
use crate::flow::Ends;
use crate::frame::{self, Packet};
use crate::offload::{Checksum, Offload, Segment as Cut, SegmentKind};

/// The segment size of who does not say (RFC 9293, 3.7.1).
const DEFAULT_MSS: u16 = 536;
/// The smallest that is believed.
const MIN_MSS: u16 = 64;
/// The largest shift (RFC 7323, 2.3).
const MAX_SHIFT: u8 = 14;
/// The shift of the windows that are told the guest: 512 KiB fit.
pub(super) const OUR_SHIFT: u8 = 4;
/// Where the checksum is in the header, in bytes.
const CHECKSUM_AT: u16 = 16;
/// The longest IP packet, in bytes.
pub(super) const MAX_PACKET: usize = 65_535;

/// The flags that matter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Flags {
    pub syn: bool,
    pub ack: bool,
    pub fin: bool,
    pub rst: bool,
    pub psh: bool,
}

/// A segment of the guest's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment<'a> {
    pub ends: Ends,
    pub seq: Seq,
    pub ack: Seq,
    pub window: u16,
    pub flags: Flags,
    pub payload: &'a [u8],
    options: &'a [u8],
}

/// What a SYN says about its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terms {
    pub mss: u16,
    /// By how much windows are shifted, if both ends do that.
    pub shift: Option<u8>,
}

impl<'a> Segment<'a> {
    /// Takes a packet apart. `sum` says whether its checksum is still to be looked at.
    pub(super) fn parse(packet: &Packet<'a>, sum: Checksum) -> Option<Self> {
        let tcp = TcpPacket::new_checked(packet.payload).ok()?;
        if sum == Checksum::None && !frame::is_intact(packet) {
            return None;
        }
        let flags = Flags { syn: tcp.syn(), ack: tcp.ack(), fin: tcp.fin(), rst: tcp.rst(), psh: tcp.psh() };
        Some(Self {
            ends: Ends::new((packet.source, tcp.src_port()), (packet.destination, tcp.dst_port())),
            seq: Seq(tcp.seq_number().0 as u32),
            ack: Seq(tcp.ack_number().0 as u32),
            window: tcp.window_len(),
            flags,
            payload: packet.payload.get(usize::from(tcp.header_len())..).unwrap_or_default(),
            options: packet.payload.get(TCP_HEADER_LEN..usize::from(tcp.header_len())).unwrap_or_default(),
        })
    }

    /// How much of the sequence it takes.
    pub(super) fn length(&self) -> usize {
        let flags = usize::from(self.flags.syn).saturating_add(self.flags.fin.into());
        self.payload.len().saturating_add(flags)
    }

    /// What a SYN says.
    pub(super) fn terms(&self) -> Terms {
        let mut terms = Terms { mss: DEFAULT_MSS, shift: None };
        let mut options = self.options;
        while !options.is_empty() {
            match TcpOption::parse(options) {
                Ok((_, TcpOption::EndOfList)) | Err(_) => break,
                Ok((rest, option)) => {
                    match option {
                        TcpOption::MaxSegmentSize(mss) => terms.mss = mss.max(MIN_MSS),
                        TcpOption::WindowScale(shift) => terms.shift = Some(shift.min(MAX_SHIFT)),
                        _ => {}
                    }
                    options = rest;
                }
            }
        }
        terms
    }
}

/// A segment for the guest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub ends: Ends,
    pub seq: Seq,
    pub ack: Seq,
    pub window: u16,
    pub flags: Flags,
    /// What a SYN says.
    pub terms: Option<Terms>,
    /// The payload of the segments that the frame is to be cut into, if it is larger than that.
    pub cut: u16,
}

/// The largest payload of a segment between two ends, in bytes.
pub(super) fn largest(core: &Core, ends: Ends) -> u16 {
    let headers = if ends.guest.is_ipv4() { 40 } else { 60 };
    core.config.mtu.saturating_sub(headers)
}

/// Builds a frame with `length` bytes of payload, which `fill` puts there.
pub(super) fn build(
    core: &Core,
    out: &mut Vec<u8>,
    head: &Head,
    length: usize,
    fill: impl FnOnce(&mut [u8]),
) -> Option<Offload> {
    let options = match head.terms {
        Some(Terms { shift: Some(_), .. }) => 8,
        Some(_) => 4,
        None => 0,
    };
    let header = TCP_HEADER_LEN.saturating_add(options);
    let ends = (head.ends.remote.ip(), head.ends.guest.ip());
    let segment = header.checked_add(length)?;
    let body = frame::ip(out, &core.link(), ends, IpProtocol::Tcp, segment)?;
    fill(body.get_mut(header..)?);
    let mut tcp = TcpPacket::new_unchecked(&mut *body);
    tcp.set_src_port(head.ends.remote.port());
    tcp.set_dst_port(head.ends.guest.port());
    tcp.set_seq_number(TcpSeqNumber(head.seq.0 as i32));
    tcp.set_ack_number(TcpSeqNumber(if head.flags.ack { head.ack.0 as i32 } else { 0 }));
    tcp.clear_flags();
    tcp.set_syn(head.flags.syn);
    tcp.set_ack(head.flags.ack);
    tcp.set_fin(head.flags.fin);
    tcp.set_rst(head.flags.rst);
    tcp.set_psh(head.flags.psh);
    tcp.set_header_len(u8::try_from(header).ok()?);
    tcp.set_window_len(head.window);
    tcp.set_urgent_at(0);
    tcp.set_checksum(0);
    if let Some(terms) = head.terms {
        let rest = TcpOption::MaxSegmentSize(terms.mss).emit(tcp.options_mut());
        if let Some(shift) = terms.shift {
            let rest = TcpOption::WindowScale(shift).emit(rest);
            TcpOption::NoOperation.emit(rest);
        }
    }
    let (sum, checksum) = if core.offloads.checksum {
        let start = out_of(out.len(), segment)?;
        (
            frame::pseudo_header(ends, IpProtocol::Tcp, segment),
            Checksum::Partial { start, offset: CHECKSUM_AT },
        )
    } else {
        (frame::transport_checksum(ends, IpProtocol::Tcp, body), Checksum::None)
    };
    let at = out.len().checked_sub(segment)?.checked_add(usize::from(CHECKSUM_AT))?;
    out.get_mut(at..)?.get_mut(..2)?.copy_from_slice(&sum.to_be_bytes());
    let kind = if ends.0.is_ipv4() { SegmentKind::Tcp4 } else { SegmentKind::Tcp6 };
    let segment = (length > usize::from(head.cut)).then_some(Cut { kind, size: head.cut });
    Some(Offload { checksum, segment })
}

/// Where the last `length` bytes of a frame begin.
fn out_of(frame: usize, length: usize) -> Option<u16> {
    u16::try_from(frame.checked_sub(length)?).ok().filter(|start| usize::from(*start) >= ETHERNET_HEADER_LEN)
}

/// Refuses a segment that belongs to no connection (RFC 9293, 3.10.7.1).
pub(super) fn refuse(core: &mut Core, segment: &Segment<'_>) {
    if segment.flags.rst {
        return;
    }
    let (seq, ack, has_ack) = if segment.flags.ack {
        (segment.ack, Seq(0), false)
    } else {
        (Seq(0), segment.seq.plus(segment.length()), true)
    };
    let flags = Flags { rst: true, ack: has_ack, ..Flags::default() };
    let head = Head { ends: segment.ends, seq, ack, window: 0, flags, terms: None, cut: u16::MAX };
    let mut bytes = Vec::new();
    if let Some(offload) = build(core, &mut bytes, &head, 0, |_| {}) {
        core.reply_with(offload, bytes);
    }
}
