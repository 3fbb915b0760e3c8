//! Who is who on the link: ARP (RFC 826), neighbour discovery and router advertisements (RFC 4861, RFC 8106).

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv6Packet,
    IpProtocol, NdiscNeighborFlags, NdiscRepr,
};

use crate::core::Core;
use crate::frame::{self, Packet};

/// The router's address on the link.
pub(crate) const ROUTER: Ipv6Addr = Ipv6Addr::new(0xFE80, 0, 0, 0, 0, 0, 0, 2);
/// All that listen, and their link address (RFC 2464, 7).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_LINK: EthernetAddress = EthernetAddress([0x33, 0x33, 0, 0, 0, 1]);
/// For how long a router is one, in seconds: the most there is (RFC 4861, 6.2.1).
const ROUTER_LIFETIME: u16 = 9000;
/// How often it says so by itself.
pub(crate) const ADVERTISE_EVERY: Duration = Duration::from_secs(1800);
const INFINITE: [u8; 4] = [0xFF; 4];
const ROUTER_ADVERTISEMENT: u8 = 134;
/// How long a request or reply of ARP is, in bytes.
const ARP_LENGTH: usize = 28;

/// Answers an ARP request for the router or the name server.
pub(crate) fn arp(core: &mut Core, payload: &[u8]) {
    let Ok(packet) = ArpPacket::new_checked(payload) else { return };
    let Ok(ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    }) = ArpRepr::parse(&packet)
    else {
        return;
    };
    let target = IpAddr::V4(target_protocol_addr);
    if !core.is_gateway(target) && !core.is_dns(target) {
        return;
    }
    let link = core.link();
    let reply = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: link.gateway,
        source_protocol_addr: target_protocol_addr,
        target_hardware_addr: source_hardware_addr,
        target_protocol_addr: source_protocol_addr,
    };
    let mut bytes = vec![0; EthernetFrame::<&[u8]>::buffer_len(ARP_LENGTH)];
    let mut ethernet = EthernetFrame::new_unchecked(bytes.as_mut_slice());
    ethernet.set_dst_addr(link.guest);
    ethernet.set_src_addr(link.gateway);
    ethernet.set_ethertype(EthernetProtocol::Arp);
    reply.emit(&mut ArpPacket::new_unchecked(ethernet.payload_mut()));
    core.reply(bytes);
}

/// Answers neighbour discovery. Says whether it was that.
pub(crate) fn discovery(core: &mut Core, packet: &Packet<'_>) -> bool {
    let (IpAddr::V6(source), IpAddr::V6(destination)) = (packet.source, packet.destination) else {
        return false;
    };
    let Ok(icmp) = Icmpv6Packet::new_checked(packet.payload) else { return false };
    if !icmp.msg_type().is_ndisc() {
        return false;
    }
    // A router would have counted the hops down, so these come from the link (RFC 4861, 7.1.1).
    if packet.hops != 255 || !icmp.verify_checksum(&source, &destination) {
        return true;
    }
    match NdiscRepr::parse(&icmp) {
        Ok(NdiscRepr::RouterSolicit { .. }) => advertise(core),
        Ok(NdiscRepr::NeighborSolicit { target_addr, .. }) => {
            let target = IpAddr::V6(target_addr);
            if target_addr == ROUTER || core.is_gateway(target) || core.is_dns(target) {
                neighbour(core, target_addr, source);
            }
        }
        _ => {}
    }
    true
}

/// Says that an address is the router's.
fn neighbour(core: &mut Core, target: Ipv6Addr, asker: Ipv6Addr) {
    if core.config.ipv6.is_none() {
        return;
    }
    let mut link = core.link();
    let mut flags = NdiscNeighborFlags::ROUTER | NdiscNeighborFlags::OVERRIDE;
    // Who has no address yet is answered through the address of all (RFC 4861, 7.2.4).
    let asker = if asker.is_unspecified() {
        link.guest = ALL_NODES_LINK;
        ALL_NODES
    } else {
        flags |= NdiscNeighborFlags::SOLICITED;
        asker
    };
    let message = NdiscRepr::NeighborAdvert { flags, target_addr: target, lladdr: Some(link.gateway.into()) };
    let mut bytes = Vec::new();
    let ends = (target.into(), asker.into());
    let Some(body) = frame::ip(&mut bytes, &link, ends, IpProtocol::Icmpv6, message.buffer_len()) else {
        return;
    };
    let mut icmp = Icmpv6Packet::new_unchecked(&mut *body);
    message.emit(&mut icmp);
    icmp.fill_checksum(&target, &asker);
    core.reply(bytes);
}

/// Tells the guest about its router, prefix and name server.
pub(crate) fn advertise(core: &mut Core) {
    let Some(network) = core.config.ipv6 else { return };
    let mut link = core.link();
    link.guest = ALL_NODES_LINK;
    let mut message = vec![ROUTER_ADVERTISEMENT, 0, 0, 0, 64, 0];
    message.extend(ROUTER_LIFETIME.to_be_bytes());
    // Times that are not told.
    message.extend([0; 8]);
    // Source link-layer address.
    message.extend([1, 1]);
    message.extend(link.gateway.0);
    // MTU.
    message.extend([5, 1, 0, 0]);
    message.extend(u32::from(core.config.mtu).to_be_bytes());
    // The prefix: 64 bits, on the link, to make up addresses from.
    message.extend([3, 4, 64, 0xC0]);
    message.extend([INFINITE, INFINITE, [0; 4]].concat());
    message.extend(network.prefix().octets());
    // The name server.
    message.extend([25, 3, 0, 0]);
    message.extend(INFINITE);
    message.extend(network.dns.octets());
    let mut bytes = Vec::new();
    let ends = (ROUTER.into(), ALL_NODES.into());
    let Some(body) = frame::ip(&mut bytes, &link, ends, IpProtocol::Icmpv6, message.len()) else { return };
    body.copy_from_slice(&message);
    Icmpv6Packet::new_unchecked(body).fill_checksum(&ROUTER, &ALL_NODES);
    core.reply(bytes);
}
