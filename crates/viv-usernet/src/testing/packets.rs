//! Frames of a guest's, built by hand.

use std::net::{IpAddr, SocketAddr};

use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, IpProtocol,
    TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};

use crate::Config;
use crate::frame::{self, Link};
use crate::tests::MAC;

/// A TCP segment of the guest's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tcp<'a> {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub seq: u32,
    pub ack: Option<u32>,
    pub control: TcpControl,
    pub window: u16,
    pub payload: &'a [u8],
}

impl Tcp<'_> {
    /// Its frame, with all checksums in place.
    pub fn frame(&self) -> Vec<u8> {
        let syn = self.control == TcpControl::Syn;
        let segment = TcpRepr {
            src_port: self.from.port(),
            dst_port: self.to.port(),
            control: self.control,
            seq_number: TcpSeqNumber(self.seq as i32),
            ack_number: self.ack.map(|ack| TcpSeqNumber(ack as i32)),
            window_len: self.window,
            window_scale: syn.then_some(7),
            max_seg_size: syn.then_some(1460),
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: self.payload,
        };
        ip(self.from.ip(), self.to.ip(), IpProtocol::Tcp, segment.buffer_len(), |body| {
            let (from, to) = (self.from.ip().into(), self.to.ip().into());
            segment.emit(&mut TcpPacket::new_unchecked(body), &from, &to, &Default::default());
        })
    }
}

/// A frame of the guest's with an IP packet.
pub(crate) fn ip(
    from: IpAddr,
    to: IpAddr,
    protocol: IpProtocol,
    length: usize,
    fill: impl FnOnce(&mut [u8]),
) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What is built for the guest, the other way round.
    let link = Link { gateway: MAC, guest: EthernetAddress(Config::default().gateway_mac) };
    fill(frame::ip(&mut bytes, &link, (from, to), protocol, length).unwrap());
    bytes
}

/// A frame of the guest's with a UDP datagram.
pub(crate) fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let link = Link { gateway: MAC, guest: EthernetAddress(Config::default().gateway_mac) };
    frame::udp(&mut bytes, &link, from, to, payload, frame::Sum::Here).unwrap();
    bytes
}

/// The TCP segment in a frame to the guest, over IPv4.
pub(crate) fn tcp(frame: &[u8]) -> Option<TcpPacket<&[u8]>> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    let packet = smoltcp::wire::Ipv4Packet::new_checked(ethernet.payload()).ok()?;
    if packet.next_header() != IpProtocol::Tcp {
        return None;
    }
    let header = usize::from(packet.header_len());
    TcpPacket::new_checked(&frame[14 + header..14 + usize::from(packet.total_len())]).ok()
}

/// The frame by which a guest asks who the gateway is.
pub(crate) fn arp_request() -> Vec<u8> {
    let network = Config::default().ipv4;
    let request = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: MAC,
        source_protocol_addr: network.guest,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: network.gateway,
    };
    let mut frame = vec![0; 14 + request.buffer_len()];
    let mut ethernet = EthernetFrame::new_unchecked(frame.as_mut_slice());
    ethernet.set_src_addr(MAC);
    ethernet.set_dst_addr(EthernetAddress::BROADCAST);
    ethernet.set_ethertype(EthernetProtocol::Arp);
    request.emit(&mut ArpPacket::new_unchecked(ethernet.payload_mut()));
    frame
}
