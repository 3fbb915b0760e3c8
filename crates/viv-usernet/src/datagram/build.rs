//! Frames for what comes back to the guest.

use smoltcp::wire::{IPV4_HEADER_LEN, IPV6_HEADER_LEN, IpProtocol, UDP_HEADER_LEN};

use super::{Key, Kind};
use crate::core::Core;
use crate::frame::{self, Part, Sum};
use crate::icmp;
use crate::offload::Offload;

/// The header that makes an IPv6 packet a piece of another (RFC 8200, 4.5), in bytes.
const FRAGMENT_HEADER: usize = 8;

/// Builds the frame for what came from a flow's peer. What does not fit into one frame is cut; the other pieces are left
/// as replies.
pub(super) fn frame(core: &mut Core, key: Key, data: &[u8], out: &mut Vec<u8>) -> Option<Offload> {
    let (from, to) = (key.ends.remote, key.ends.guest);
    if key.kind == Kind::Echo {
        let reply = icmp::echo_reply(core, (from.ip(), to.ip()), to.port(), data)?;
        let room = usize::from(core.config.mtu).saturating_add(14);
        (reply.len() <= room).then(|| *out = reply)?;
        return Some(Offload::default());
    }
    let header = if from.is_ipv4() { IPV4_HEADER_LEN } else { IPV6_HEADER_LEN };
    let room = usize::from(core.config.mtu).saturating_sub(header);
    let length = data.len().checked_add(UDP_HEADER_LEN)?;
    if length <= room {
        let sum = if core.offloads.checksum { Sum::Guest } else { Sum::Here };
        let checksum = frame::udp(out, &core.link(), from, to, data, sum)?;
        return Some(Offload { checksum, segment: None });
    }
    let mut datagram = vec![0; length];
    frame::write_udp(&mut datagram, from, to, data, Sum::Here)?;
    let identification = core.identification();
    let size = room.saturating_sub(FRAGMENT_HEADER) & !7;
    let mut offset = 0_usize;
    let mut first = None;
    for piece in datagram.chunks(size.max(8)) {
        let mut bytes = Vec::new();
        let end = offset.saturating_add(piece.len());
        build_piece(core, &mut bytes, key, Part { identification, offset, more: end < length }, piece)?;
        offset = end;
        match first {
            None => first = Some(bytes),
            Some(_) => core.reply(bytes),
        }
    }
    *out = first?;
    Some(Offload::default())
}

fn build_piece(core: &Core, out: &mut Vec<u8>, key: Key, part: Part, piece: &[u8]) -> Option<()> {
    let ends = (key.ends.remote.ip(), key.ends.guest.ip());
    if ends.0.is_ipv4() {
        frame::ip(out, &core.link(), ends, IpProtocol::Udp, piece.len())?.copy_from_slice(piece);
        return frame::set_part(out, part);
    }
    let length = piece.len().checked_add(FRAGMENT_HEADER)?;
    let body = frame::ip(out, &core.link(), ends, IpProtocol::Ipv6Frag, length)?;
    let (header, rest) = body.split_first_chunk_mut::<FRAGMENT_HEADER>()?;
    let place = u16::try_from(part.offset).ok()? | u16::from(part.more);
    let ([high, low], [a, b, c, d]) = (place.to_be_bytes(), part.identification.to_be_bytes());
    *header = [IpProtocol::Udp.into(), 0, high, low, a, b, c, d];
    rest.copy_from_slice(piece);
    Some(())
}
