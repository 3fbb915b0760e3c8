//! Frames taken apart and built.

use std::net::{IpAddr, SocketAddr};

use smoltcp::wire::{
    ETHERNET_HEADER_LEN, EthernetAddress, EthernetFrame, EthernetProtocol, IPV4_HEADER_LEN, IPV6_HEADER_LEN,
    IpProtocol, Ipv4Packet, Ipv6Packet, UDP_HEADER_LEN, UdpPacket, checksum,
};

use crate::offload::Checksum;

/// How many routers a packet may still pass.
const HOPS: u8 = 64;
/// Where the checksum is in a header of UDP, in bytes.
const UDP_CHECKSUM_AT: u16 = 6;
/// How many extension headers of an IPv6 packet are looked at.
const MAX_EXTENSIONS: usize = 8;
/// The largest headers that are built here: Ethernet, IPv6, and TCP with options.
const MAX_HEADERS: usize = ETHERNET_HEADER_LEN + IPV6_HEADER_LEN + 60;

/// The link's two ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    pub gateway: EthernetAddress,
    pub guest: EthernetAddress,
}

/// What came in a frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Content<'a> {
    Arp(&'a [u8]),
    Packet(Packet<'a>),
    Fragment(Fragment<'a>),
}

/// An IP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packet<'a> {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: IpProtocol,
    pub hops: u8,
    pub payload: &'a [u8],
}

/// A piece of an IP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fragment<'a> {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: IpProtocol,
    pub identification: u32,
    pub offset: usize,
    pub more: bool,
    pub payload: &'a [u8],
}

/// Takes a frame apart: who sent it, and what is in it. Nothing: it is malformed, or of no concern here.
pub(crate) fn parse(frame: &[u8], gateway: EthernetAddress) -> Option<(EthernetAddress, Content<'_>)> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    let destination = ethernet.dst_addr();
    let source = ethernet.src_addr();
    if (destination.is_unicast() && destination != gateway) || !source.is_unicast() {
        return None;
    }
    let content = match ethernet.ethertype() {
        EthernetProtocol::Arp => Content::Arp(ethernet.payload()),
        EthernetProtocol::Ipv4 => parse_v4(ethernet.payload())?,
        EthernetProtocol::Ipv6 => parse_v6(ethernet.payload())?,
        _ => return None,
    };
    Some((source, content))
}

fn parse_v4(data: &[u8]) -> Option<Content<'_>> {
    let packet = Ipv4Packet::new_checked(data).ok()?;
    if packet.version() != 4 || !packet.verify_checksum() {
        return None;
    }
    let (source, destination) = (packet.src_addr().into(), packet.dst_addr().into());
    let protocol = packet.next_header();
    let payload = packet.payload();
    if packet.more_frags() || packet.frag_offset() != 0 {
        return Some(Content::Fragment(Fragment {
            source,
            destination,
            protocol,
            identification: packet.ident().into(),
            offset: packet.frag_offset().into(),
            more: packet.more_frags(),
            payload,
        }));
    }
    Some(Content::Packet(Packet { source, destination, protocol, hops: packet.hop_limit(), payload }))
}

fn parse_v6(data: &[u8]) -> Option<Content<'_>> {
    let packet = Ipv6Packet::new_checked(data).ok()?;
    if packet.version() != 6 {
        return None;
    }
    let (source, destination) = (packet.src_addr().into(), packet.dst_addr().into());
    let mut protocol = packet.next_header();
    let mut payload = packet.payload();
    for _ in 0..MAX_EXTENSIONS {
        match protocol {
            // Options and routing headers: the next header, the length in units of 8 bytes less one (RFC 8200, 4).
            IpProtocol::HopByHop | IpProtocol::Ipv6Opts | IpProtocol::Ipv6Route => {
                let (&next, &units) = (payload.first()?, payload.get(1)?);
                let length = usize::from(units).saturating_add(1).saturating_mul(8);
                payload = payload.get(length..)?;
                protocol = next.into();
            }
            IpProtocol::Ipv6Frag => {
                let (header, rest) = payload.split_first_chunk::<8>()?;
                let [next, _, high, low, a, b, c, d] = *header;
                let place = u16::from_be_bytes([high, low]);
                return Some(Content::Fragment(Fragment {
                    source,
                    destination,
                    protocol: next.into(),
                    identification: u32::from_be_bytes([a, b, c, d]),
                    offset: usize::from(place & !7),
                    more: place & 1 != 0,
                    payload: rest,
                }));
            }
            _ => {
                let hops = packet.hop_limit();
                return Some(Content::Packet(Packet { source, destination, protocol, hops, payload }));
            }
        }
    }
    None
}

/// Which part of a larger packet one is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Part {
    pub identification: u32,
    pub offset: usize,
    pub more: bool,
}

/// Begins a frame to the guest with an IP packet of `length` bytes after its header, and gives those: what was in
/// `frame` before, but for zeroes where headers go.
pub(crate) fn ip<'f>(
    frame: &'f mut Vec<u8>,
    link: &Link,
    (source, destination): (IpAddr, IpAddr),
    protocol: IpProtocol,
    length: usize,
) -> Option<&'f mut [u8]> {
    let header = match source {
        IpAddr::V4(_) => IPV4_HEADER_LEN,
        IpAddr::V6(_) => IPV6_HEADER_LEN,
    };
    frame.resize(ETHERNET_HEADER_LEN.saturating_add(header).saturating_add(length), 0);
    frame.iter_mut().take(MAX_HEADERS).for_each(|byte| *byte = 0);
    let mut ethernet = EthernetFrame::new_unchecked(frame.as_mut_slice());
    ethernet.set_dst_addr(link.guest);
    ethernet.set_src_addr(link.gateway);
    ethernet.set_ethertype(match source {
        IpAddr::V4(_) => EthernetProtocol::Ipv4,
        IpAddr::V6(_) => EthernetProtocol::Ipv6,
    });
    let rest = frame.get_mut(ETHERNET_HEADER_LEN..)?;
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut packet = Ipv4Packet::new_unchecked(&mut *rest);
            packet.set_version(4);
            packet.set_header_len(IPV4_HEADER_LEN as u8);
            packet.set_total_len(u16::try_from(header.saturating_add(length)).ok()?);
            packet.set_dont_frag(protocol == IpProtocol::Tcp);
            packet.set_hop_limit(HOPS);
            packet.set_next_header(protocol);
            packet.set_src_addr(source);
            packet.set_dst_addr(destination);
            packet.fill_checksum();
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut packet = Ipv6Packet::new_unchecked(&mut *rest);
            packet.set_version(6);
            packet.set_payload_len(u16::try_from(length).ok()?);
            packet.set_next_header(protocol);
            // Neighbour discovery is believed only if no router passed it on (RFC 4861, 7.1).
            packet.set_hop_limit(if protocol == IpProtocol::Icmpv6 { 255 } else { HOPS });
            packet.set_src_addr(source);
            packet.set_dst_addr(destination);
        }
        _ => return None,
    }
    rest.get_mut(header..)
}

/// Makes a packet that [`ip`] built one part of a larger one.
pub(crate) fn set_part(frame: &mut [u8], part: Part) -> Option<()> {
    let rest = frame.get_mut(ETHERNET_HEADER_LEN..)?;
    let mut packet = Ipv4Packet::new_unchecked(rest);
    packet.set_ident(part.identification as u16);
    packet.set_frag_offset(u16::try_from(part.offset).ok()?);
    packet.set_more_frags(part.more);
    packet.fill_checksum();
    Some(())
}

/// Who sums a datagram up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sum {
    /// Whoever builds it.
    Here,
    /// The guest, if it cares.
    Guest,
}

/// Builds a frame with a UDP datagram, if it fits into one packet: the state of its checksum.
pub(crate) fn udp(
    frame: &mut Vec<u8>,
    link: &Link,
    from: SocketAddr,
    to: SocketAddr,
    payload: &[u8],
    sum: Sum,
) -> Option<Checksum> {
    let ends = (from.ip(), to.ip());
    let length = payload.len().checked_add(UDP_HEADER_LEN)?;
    let datagram = ip(frame, link, ends, IpProtocol::Udp, length)?;
    write_udp(datagram, from, to, payload, sum)?;
    Some(match sum {
        Sum::Here => Checksum::None,
        Sum::Guest => {
            let start = u16::try_from(frame.len().checked_sub(length)?).ok()?;
            Checksum::Partial { start, offset: UDP_CHECKSUM_AT }
        }
    })
}

/// Fills in a UDP datagram.
pub(crate) fn write_udp(
    datagram: &mut [u8],
    from: SocketAddr,
    to: SocketAddr,
    payload: &[u8],
    sum: Sum,
) -> Option<()> {
    datagram.get_mut(UDP_HEADER_LEN..)?.copy_from_slice(payload);
    let length = u16::try_from(datagram.len()).ok()?;
    let mut packet = UdpPacket::new_unchecked(&mut *datagram);
    packet.set_src_port(from.port());
    packet.set_dst_port(to.port());
    packet.set_len(length);
    packet.set_checksum(0);
    let ends = (from.ip(), to.ip());
    let sum = match sum {
        Sum::Guest => pseudo_header(ends, IpProtocol::Udp, datagram.len()),
        // 0 says that there is none (RFC 768).
        Sum::Here => match transport_checksum(ends, IpProtocol::Udp, datagram) {
            0 => 0xFFFF,
            sum => sum,
        },
    };
    UdpPacket::new_unchecked(datagram).set_checksum(sum);
    Some(())
}

/// The sum of a transport protocol's pseudo-header, not complemented.
pub(crate) fn pseudo_header(ends: (IpAddr, IpAddr), protocol: IpProtocol, length: usize) -> u16 {
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    checksum::pseudo_header(&ends.0.into(), &ends.1.into(), protocol, length)
}

/// The checksum of a transport packet whose field holds 0, to be put there.
pub(crate) fn transport_checksum(ends: (IpAddr, IpAddr), protocol: IpProtocol, packet: &[u8]) -> u16 {
    let pseudo = pseudo_header(ends, protocol, packet.len());
    !checksum::combine(&[pseudo, checksum::data(packet)])
}

/// Whether the checksum in a transport packet is right.
pub(crate) fn is_intact(packet: &Packet<'_>) -> bool {
    transport_checksum((packet.source, packet.destination), packet.protocol, packet.payload) == 0
}
