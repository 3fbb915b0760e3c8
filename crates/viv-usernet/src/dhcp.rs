//! The DHCP server (RFC 2131): one address, for one guest.

use std::net::{Ipv4Addr, SocketAddr};

use smoltcp::wire::{
    DHCP_CLIENT_PORT, DHCP_SERVER_PORT, DhcpMessageType, DhcpOpCode, DhcpOption, DhcpPacket, DhcpRepr,
};

use crate::config::Config;
use crate::core::Core;
use crate::frame::{self, Sum};

/// For how long the guest has its address, in seconds.
const LEASE: u32 = 86_400;
// Options (RFC 2132).
const MESSAGE_TYPE: u8 = 53;
const REQUESTED_ADDRESS: u8 = 50;
const SERVER: u8 = 54;
const HOST_NAME: u8 = 12;
const INTERFACE_MTU: u8 = 26;
const BROADCAST_ADDRESS: u8 = 28;

/// Whether a datagram to this address and port is for the server.
pub(crate) fn is_for_server(core: &Core, to: SocketAddr) -> bool {
    let SocketAddr::V4(to) = to else { return false };
    let network = &core.config.ipv4;
    let all = to.ip().is_broadcast() || *to.ip() == network.broadcast();
    to.port() == DHCP_SERVER_PORT && (all || *to.ip() == network.gateway)
}

/// Answers a message.
pub(crate) fn serve(core: &mut Core, message: &[u8]) {
    let Some((answer, to)) = answer(&core.config, message) else { return };
    let from = SocketAddr::new(core.config.ipv4.gateway.into(), DHCP_SERVER_PORT);
    let to = SocketAddr::new(to.into(), DHCP_CLIENT_PORT);
    let mut bytes = Vec::new();
    // Clients of DHCP listen below what would sum it up.
    if frame::udp(&mut bytes, &core.link(), from, to, &answer, Sum::Here).is_some() {
        core.reply(bytes);
    }
}

/// What is answered to a message, and to which address.
pub(crate) fn answer(config: &Config, message: &[u8]) -> Option<(Vec<u8>, Ipv4Addr)> {
    let request = DhcpPacket::new_checked(message).ok()?;
    if request.opcode() != DhcpOpCode::Request {
        return None;
    }
    let option = |kind| request.options().find(|option| option.kind == kind).map(|option| option.data);
    let address = |kind| Some(Ipv4Addr::from(<[u8; 4]>::try_from(option(kind)?).ok()?));
    let network = &config.ipv4;
    if address(SERVER).is_some_and(|server| server != network.gateway) {
        return None;
    }
    let client = request.client_ip();
    let kind = match DhcpMessageType::from(*option(MESSAGE_TYPE)?.first()?) {
        DhcpMessageType::Discover => DhcpMessageType::Offer,
        // A client that renews names its address in the header instead (RFC 2131, 4.3.2).
        DhcpMessageType::Request if address(REQUESTED_ADDRESS).unwrap_or(client) == network.guest => {
            DhcpMessageType::Ack
        }
        DhcpMessageType::Request => DhcpMessageType::Nak,
        DhcpMessageType::Inform => DhcpMessageType::Ack,
        _ => return None,
    };
    let refused = kind == DhcpMessageType::Nak;
    let inform = *option(MESSAGE_TYPE)?.first()? == u8::from(DhcpMessageType::Inform);
    let mtu = config.mtu.to_be_bytes();
    let broadcast = network.broadcast().octets();
    let mut options = vec![
        DhcpOption { kind: INTERFACE_MTU, data: &mtu },
        DhcpOption { kind: BROADCAST_ADDRESS, data: &broadcast },
    ];
    if let Some(name) = &config.hostname {
        options.push(DhcpOption { kind: HOST_NAME, data: name.as_bytes() });
    }
    let reply = DhcpRepr {
        message_type: kind,
        transaction_id: request.transaction_id(),
        secs: 0,
        client_hardware_address: request.client_hardware_address(),
        // An offer has none (RFC 2131, table 3).
        client_ip: if refused || kind == DhcpMessageType::Offer { Ipv4Addr::UNSPECIFIED } else { client },
        your_ip: if refused || inform { Ipv4Addr::UNSPECIFIED } else { network.guest },
        server_ip: network.gateway,
        router: (!refused).then_some(network.gateway),
        subnet_mask: (!refused).then(|| network.mask()),
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: request.flags().contains(smoltcp::wire::DhcpFlags::BROADCAST),
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(network.gateway),
        parameter_request_list: None,
        dns_servers: (!refused).then(|| std::iter::once(network.dns).collect()),
        max_size: None,
        lease_duration: (!refused && !inform).then_some(LEASE),
        renew_duration: None,
        rebind_duration: None,
        additional_options: if refused { &[] } else { &options },
    };
    let mut bytes = vec![0; reply.buffer_len()];
    reply.emit(&mut DhcpPacket::new_unchecked(bytes.as_mut_slice())).ok()?;
    // Who has an address is answered there (RFC 2131, 4.1).
    let to = if refused || client.is_unspecified() { Ipv4Addr::BROADCAST } else { client };
    Some((bytes, to))
}
