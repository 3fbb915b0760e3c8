//! What the guest is told about its network.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use smoltcp::socket::dhcpv4;
use smoltcp::wire::{
    DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv6Packet,
    IpProtocol, Ipv6Packet, Ipv6Repr, NdiscRepr,
};

use super::{Guest, MAC};
use crate::{Config, Offload, dhcp};

#[test]
fn a_guest_gets_its_address() {
    let mut guest = Guest::without_address(Config::default());
    let handle = guest.sockets.add(dhcpv4::Socket::new());
    let (address, router, servers) = guest.until("an address", |guest| {
        match guest.sockets.get_mut::<dhcpv4::Socket<'_>>(handle).poll()? {
            dhcpv4::Event::Configured(config) => {
                Some((config.address, config.router, config.dns_servers.to_vec()))
            }
            dhcpv4::Event::Deconfigured => None,
        }
    });
    let network = Config::default().ipv4;
    assert_eq!((address.address(), address.prefix_len()), (network.guest, 24));
    assert_eq!((router, servers), (Some(network.gateway), vec![network.dns]));
}

fn request(kind: DhcpMessageType, wanted: Option<Ipv4Addr>, client: Ipv4Addr) -> Vec<u8> {
    let message = DhcpRepr {
        message_type: kind,
        transaction_id: 0xC0FF_EE00,
        secs: 0,
        client_hardware_address: MAC,
        client_ip: client,
        your_ip: Ipv4Addr::UNSPECIFIED,
        server_ip: Ipv4Addr::UNSPECIFIED,
        router: None,
        subnet_mask: None,
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: false,
        requested_ip: wanted,
        client_identifier: None,
        server_identifier: None,
        parameter_request_list: None,
        dns_servers: None,
        max_size: None,
        lease_duration: None,
        renew_duration: None,
        rebind_duration: None,
        additional_options: &[],
    };
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut DhcpPacket::new_unchecked(bytes.as_mut_slice())).unwrap();
    bytes
}

#[test]
fn an_address_of_another_network_is_refused() {
    let config = Config { hostname: Some("box".into()), mtu: 9000, ..Config::default() };
    let other = Ipv4Addr::new(192, 0, 2, 7);
    let none = Ipv4Addr::UNSPECIFIED;
    let kind = |kind, wanted, client| {
        let (answer, to) = dhcp::answer(&config, &request(kind, wanted, client)).unwrap();
        let packet = DhcpPacket::new_checked(answer.as_slice()).unwrap();
        let told = DhcpRepr::parse(&packet).unwrap();
        assert_eq!(told.transaction_id, 0xC0FF_EE00);
        (told.message_type, told.your_ip, to)
    };
    let guest = config.ipv4.guest;
    let all = Ipv4Addr::BROADCAST;
    use DhcpMessageType::{Ack, Discover, Inform, Nak, Offer, Request};
    assert_eq!(kind(Discover, Some(other), none), (Offer, guest, all));
    assert_eq!(kind(Request, Some(other), none), (Nak, none, all));
    assert_eq!(kind(Request, Some(guest), none), (Ack, guest, all));
    assert_eq!(kind(Request, None, guest), (Ack, guest, guest), "it is renewed");
    assert_eq!(kind(Inform, None, guest), (Ack, none, guest), "it has an address already");
    assert_eq!(dhcp::answer(&config, &request(DhcpMessageType::Release, None, guest)), None);

    let (answer, _) = dhcp::answer(&config, &request(Discover, None, none)).unwrap();
    let packet = DhcpPacket::new_checked(answer.as_slice()).unwrap();
    let option = |kind| packet.options().find(|option| option.kind == kind).unwrap().data.to_vec();
    assert_eq!((option(12), option(26)), (b"box".to_vec(), 9000_u16.to_be_bytes().to_vec()));
}

proptest! {
    #[test]
    fn whatever_a_client_sends_an_answer_is_for_it(
        message in prop::collection::vec(any::<u8>(), 0..700),
        options in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let config = Config::default();
        let _ = dhcp::answer(&config, &message);
        let mut known = request(DhcpMessageType::Discover, None, Ipv4Addr::UNSPECIFIED);
        known.truncate(243);
        known.extend(options);
        if let Some((answer, _)) = dhcp::answer(&config, &known) {
            let packet = DhcpPacket::new_checked(answer.as_slice()).unwrap();
            prop_assert_eq!(packet.client_hardware_address(), MAC);
        }
    }
}

#[test]
fn a_router_advertises_itself() {
    let mut guest = Guest::without_address(Config::default());
    let from = Ipv6Addr::new(0xFE80, 0, 0, 0, 0, 0, 0, 0x15);
    let to = Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 0, 0, 2);
    let message = NdiscRepr::RouterSolicit { lladdr: Some(MAC.into()) };
    let header = Ipv6Repr {
        src_addr: from,
        dst_addr: to,
        next_header: IpProtocol::Icmpv6,
        payload_len: message.buffer_len(),
        hop_limit: 255,
    };
    let mut frame = vec![0; 14 + 40 + message.buffer_len()];
    let mut ethernet = EthernetFrame::new_unchecked(frame.as_mut_slice());
    ethernet.set_src_addr(MAC);
    ethernet.set_dst_addr(EthernetAddress([0x33, 0x33, 0, 0, 0, 2]));
    ethernet.set_ethertype(EthernetProtocol::Ipv6);
    header.emit(&mut Ipv6Packet::new_unchecked(ethernet.payload_mut()));
    let mut icmp = Icmpv6Packet::new_unchecked(&mut frame[54..]);
    message.emit(&mut icmp);
    icmp.fill_checksum(&from, &to);
    assert!(guest.net.send(Offload::default(), &frame));

    let network = Config::default().ipv6.unwrap();
    let (mtu, prefix, name_server) = guest.frame("an advertisement", |frame| {
        let packet = Ipv6Packet::new_checked(&frame[14..]).unwrap();
        assert_eq!(packet.hop_limit(), 255);
        let icmp = Icmpv6Packet::new_checked(packet.payload()).unwrap();
        assert!(icmp.verify_checksum(&packet.src_addr(), &packet.dst_addr()));
        match NdiscRepr::parse(&icmp).unwrap() {
            NdiscRepr::RouterAdvert { mtu, prefix_info, lladdr, .. } => {
                assert_eq!(lladdr, Some(EthernetAddress(Config::default().gateway_mac).into()));
                Some((mtu.unwrap(), prefix_info.unwrap().prefix, frame[frame.len() - 16..].to_vec()))
            }
            other => panic!("{other:?}"),
        }
    });
    assert_eq!((mtu, prefix, name_server), (1500, network.prefix(), network.dns.octets().to_vec()));
}
