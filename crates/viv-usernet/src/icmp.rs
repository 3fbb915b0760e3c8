//! ICMP of both versions: what the router says and answers by itself (RFC 792, RFC 4443).

use std::net::IpAddr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr, Icmpv6DstUnreachable, Icmpv6Packet, Icmpv6Repr,
    IpProtocol, Ipv4Repr, Ipv6Repr, UDP_HEADER_LEN, UdpPacket, checksum,
};

use crate::core::Core;
use crate::flow::Ends;
use crate::frame::{self, Packet};

/// How long the header of an echo message is, in bytes.
pub(crate) const ECHO_HEADER: usize = 8;
const ECHO_REQUEST_V4: u8 = 8;
const ECHO_REPLY_V4: u8 = 0;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;

/// Why something does not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// Nobody listens at the port.
    Port,
    /// There is no way to the host.
    Host,
    /// It is not allowed.
    Prohibited,
}

/// An echo request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EchoRequest {
    pub identifier: u16,
}

/// The protocol number of ICMP for an address.
pub(crate) fn protocol(address: IpAddr) -> IpProtocol {
    match address {
        IpAddr::V4(_) => IpProtocol::Icmp,
        IpAddr::V6(_) => IpProtocol::Icmpv6,
    }
}

/// Whether a packet is an echo request, with a right checksum.
pub(crate) fn echo_request(packet: &Packet<'_>) -> Option<EchoRequest> {
    let (&[kind, code, _, _, high, low, _, _], _) = packet.payload.split_first_chunk::<ECHO_HEADER>()?;
    let expected = match packet.source {
        IpAddr::V4(_) => ECHO_REQUEST_V4,
        IpAddr::V6(_) => ECHO_REQUEST_V6,
    };
    let intact = packet.protocol == protocol(packet.source) && sum(packet, packet.payload) == 0;
    (intact && kind == expected && code == 0)
        .then(|| EchoRequest { identifier: u16::from_be_bytes([high, low]) })
}

/// The checksum of a message in a packet between the same two hosts.
fn sum(packet: &Packet<'_>, message: &[u8]) -> u16 {
    match packet.source {
        IpAddr::V4(_) => !checksum::data(message),
        IpAddr::V6(_) => {
            frame::transport_checksum((packet.source, packet.destination), IpProtocol::Icmpv6, message)
        }
    }
}

/// Answers an echo request to the router itself.
pub(crate) fn answer_echo(core: &mut Core, packet: &Packet<'_>, request: EchoRequest) {
    let ends = (packet.destination, packet.source);
    if let Some(frame) = echo_reply(core, ends, request.identifier, packet.payload) {
        core.reply(frame);
    }
}

/// Builds the reply whose sequence number and data are a message's, under an identifier.
pub(crate) fn echo_reply(
    core: &Core,
    ends: (IpAddr, IpAddr),
    identifier: u16,
    message: &[u8],
) -> Option<Vec<u8>> {
    let mut frame = Vec::new();
    let body = frame::ip(&mut frame, &core.link(), ends, protocol(ends.0), message.len())?;
    body.copy_from_slice(message);
    let header = body.first_chunk_mut::<ECHO_HEADER>()?;
    let kind = if ends.0.is_ipv4() { ECHO_REPLY_V4 } else { ECHO_REPLY_V6 };
    let [high, low] = identifier.to_be_bytes();
    let [_, _, _, _, _, _, a, b] = *header;
    *header = [kind, 0, 0, 0, high, low, a, b];
    let sum = match ends.0 {
        IpAddr::V4(_) => !checksum::data(body),
        IpAddr::V6(_) => frame::transport_checksum(ends, IpProtocol::Icmpv6, body),
    };
    body.get_mut(2..4)?.copy_from_slice(&sum.to_be_bytes());
    Some(frame)
}

/// Says that a datagram of the guest's does not arrive. It is quoted as far as its ports.
pub(crate) fn datagram_unreachable(core: &mut Core, ends: Ends, why: Why) {
    let mut header = [0; UDP_HEADER_LEN];
    let mut udp = UdpPacket::new_unchecked(&mut header);
    udp.set_src_port(ends.guest.port());
    udp.set_dst_port(ends.remote.port());
    udp.set_len(UDP_HEADER_LEN as u16);
    unreachable(core, (ends.guest.ip(), ends.remote.ip()), IpProtocol::Udp, &header, why);
}

/// Says that a packet of the guest's does not arrive. `start` is what it begins with after the IP header.
pub(crate) fn unreachable(
    core: &mut Core,
    ends: (IpAddr, IpAddr),
    next_header: IpProtocol,
    start: &[u8],
    why: Why,
) {
    let start = start.get(..ECHO_HEADER).unwrap_or(start);
    let mut frame = Vec::new();
    if build_unreachable(core, &mut frame, ends, next_header, start, why).is_some() {
        core.reply(frame);
    }
}

fn build_unreachable(
    core: &Core,
    frame: &mut Vec<u8>,
    ends: (IpAddr, IpAddr),
    next_header: IpProtocol,
    start: &[u8],
    why: Why,
) -> Option<()> {
    let sums = ChecksumCapabilities::default();
    match ends {
        (IpAddr::V4(guest), IpAddr::V4(remote)) => {
            let header = Ipv4Repr {
                src_addr: guest,
                dst_addr: remote,
                next_header,
                payload_len: start.len(),
                hop_limit: 1,
            };
            let reason = match why {
                Why::Port => Icmpv4DstUnreachable::PortUnreachable,
                Why::Host => Icmpv4DstUnreachable::HostUnreachable,
                Why::Prohibited => Icmpv4DstUnreachable::CommProhibited,
            };
            let message = Icmpv4Repr::DstUnreachable { reason, header, data: start };
            let from = core.config.ipv4.gateway.into();
            let body =
                frame::ip(frame, &core.link(), (from, guest.into()), IpProtocol::Icmp, message.buffer_len())?;
            message.emit(&mut Icmpv4Packet::new_unchecked(body), &sums);
        }
        (IpAddr::V6(guest), IpAddr::V6(remote)) => {
            let header = Ipv6Repr {
                src_addr: guest,
                dst_addr: remote,
                next_header,
                payload_len: start.len(),
                hop_limit: 1,
            };
            let reason = match why {
                Why::Port => Icmpv6DstUnreachable::PortUnreachable,
                Why::Host => Icmpv6DstUnreachable::AddrUnreachable,
                Why::Prohibited => Icmpv6DstUnreachable::AdminProhibit,
            };
            let message = Icmpv6Repr::DstUnreachable { reason, header, data: start };
            let from = core.config.ipv6?.gateway;
            let ends = (from.into(), guest.into());
            let body = frame::ip(frame, &core.link(), ends, IpProtocol::Icmpv6, message.buffer_len())?;
            message.emit(&from, &guest, &mut Icmpv6Packet::new_unchecked(body), &sums);
        }
        _ => return None,
    }
    Some(())
}
