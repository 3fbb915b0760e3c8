//! Messages to servers, and what they answer (RFC 2131, 2 and 4.4; RFC 2132).

use std::net::Ipv4Addr;
use std::time::Duration;

use smoltcp::wire::{DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress};

pub(super) use smoltcp::wire::{DHCP_CLIENT_PORT as CLIENT_PORT, DHCP_SERVER_PORT as SERVER_PORT};

/// The options that are asked for: mask, gateways, name servers, times.
const WANTED: &[u8] = &[1, 3, 6, 51, 58, 59];
/// The longest message that is taken, in bytes.
const MAX_MESSAGE: u16 = 1472;
/// The shortest lease that is believed.
const SHORTEST: Duration = Duration::from_secs(4);
/// How long a lease lasts of which the server does not say it.
const USUAL: Duration = Duration::from_secs(3600);

/// An address that was given for a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) address: Ipv4Addr,
    /// How many bits of the address its network has.
    pub(crate) prefix: u8,
    pub(crate) gateway: Option<Ipv4Addr>,
    pub(crate) name_servers: Vec<Ipv4Addr>,
    /// Who gave it.
    pub(crate) server: Ipv4Addr,
    /// For how long.
    pub(crate) duration: Duration,
    /// When to have it renewed by whoever gave it (T1), and when by anybody (T2), after it was given.
    pub(crate) renew: Duration,
    pub(crate) rebind: Duration,
}

/// What a server is asked for.
#[derive(Debug)]
pub(super) enum Asked<'a> {
    /// Any address.
    Any,
    /// The one that was offered.
    Offered(&'a Lease),
    /// More time for the one that there is.
    Renewal(&'a Lease),
}

/// What a server answers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Offer(Lease),
    Lease(Lease),
    Refusal,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Client(EthernetAddress);

impl Client {
    pub(super) fn new(mac: [u8; 6]) -> Self {
        Self(EthernetAddress(mac))
    }

    /// A message with this number.
    pub(super) fn message(self, asked: &Asked<'_>, number: u32) -> Vec<u8> {
        let nobody = Ipv4Addr::UNSPECIFIED;
        let (message_type, client_ip, requested_ip, server_identifier) = match asked {
            Asked::Any => (DhcpMessageType::Discover, nobody, None, None),
            Asked::Offered(offer) => {
                (DhcpMessageType::Request, nobody, Some(offer.address), Some(offer.server))
            }
            Asked::Renewal(lease) => (DhcpMessageType::Request, lease.address, None, None),
        };
        let message = DhcpRepr {
            message_type,
            transaction_id: number,
            secs: 0,
            client_hardware_address: self.0,
            client_ip,
            your_ip: nobody,
            server_ip: nobody,
            router: None,
            subnet_mask: None,
            relay_agent_ip: nobody,
            // Who has no address is reached by that of all alone.
            broadcast: client_ip.is_unspecified(),
            requested_ip,
            client_identifier: Some(self.0),
            server_identifier,
            parameter_request_list: Some(WANTED),
            dns_servers: None,
            max_size: Some(MAX_MESSAGE),
            lease_duration: None,
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[],
        };
        let mut bytes = vec![0; message.buffer_len()];
        // It fails for options that have no room alone, and there is as much as they take.
        let _ = message.emit(&mut DhcpPacket::new_unchecked(bytes.as_mut_slice()));
        bytes
    }

    /// What is answered to the message with this number; nothing if it is to somebody else, or makes no sense.
    pub(super) fn answer(self, bytes: &[u8], number: u32) -> Option<Answer> {
        let packet = DhcpPacket::new_checked(bytes).ok()?;
        let message = DhcpRepr::parse(&packet).ok()?;
        if message.transaction_id != number || message.client_hardware_address != self.0 {
            return None;
        }
        match message.message_type {
            DhcpMessageType::Offer => lease(&message).map(Answer::Offer),
            DhcpMessageType::Ack => lease(&message).map(Answer::Lease),
            DhcpMessageType::Nak => Some(Answer::Refusal),
            _ => None,
        }
    }
}

fn lease(message: &DhcpRepr<'_>) -> Option<Lease> {
    let seconds = |seconds: Option<u32>| seconds.map(|seconds| Duration::from_secs(seconds.into()));
    let address = message.your_ip;
    if address.is_unspecified() || address.is_multicast() || address.is_broadcast() || address.is_loopback() {
        return None;
    }
    let duration = seconds(message.lease_duration).unwrap_or(USUAL).max(SHORTEST);
    // What does not come in order is as is usual (RFC 2131, 4.4.5).
    let rebind = seconds(message.rebind_duration).filter(|rebind| !rebind.is_zero() && *rebind < duration);
    let rebind = rebind.unwrap_or(duration / 8 * 7);
    let renew = seconds(message.renew_duration).filter(|renew| !renew.is_zero() && *renew < rebind);
    Some(Lease {
        address,
        prefix: message.subnet_mask.map_or(24, |mask| mask.to_bits().leading_ones() as u8),
        gateway: message.router,
        name_servers: message.dns_servers.iter().flatten().copied().collect(),
        server: message.server_identifier?,
        duration,
        renew: renew.unwrap_or((duration / 2).min(rebind)),
        rebind,
    })
}

/// A number that no other message has.
pub(super) fn number() -> u32 {
    let mut bytes = [0; 4];
    // What is not random is still a number.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::NONBLOCK);
    u32::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

    /// What a server says to a message of the client's.
    fn said(to: &[u8], message_type: DhcpMessageType, change: impl Fn(&mut DhcpRepr<'_>)) -> Vec<u8> {
        let packet = DhcpPacket::new_checked(to).unwrap();
        let mut reply = DhcpRepr::parse(&packet).unwrap();
        reply.message_type = message_type;
        reply.your_ip = Ipv4Addr::new(10, 1, 2, 3);
        reply.server_identifier = Some(Ipv4Addr::new(10, 1, 0, 1));
        reply.subnet_mask = Some(Ipv4Addr::new(255, 255, 0, 0));
        reply.lease_duration = Some(80);
        change(&mut reply);
        let mut bytes = vec![0; reply.buffer_len()];
        let mut packet = DhcpPacket::new_unchecked(bytes.as_mut_slice());
        reply.emit(&mut packet).unwrap();
        packet.set_opcode(smoltcp::wire::DhcpOpCode::Reply);
        bytes
    }

    #[test]
    fn an_offer_is_asked_for_and_leased() {
        let client = Client::new(MAC);
        let question = client.message(&Asked::Any, 5);
        let Some(Answer::Offer(offer)) = client.answer(&said(&question, DhcpMessageType::Offer, |_| {}), 5)
        else {
            panic!("no offer")
        };
        assert_eq!((offer.address, offer.prefix), (Ipv4Addr::new(10, 1, 2, 3), 16));
        assert_eq!([offer.renew, offer.rebind, offer.duration], [40, 70, 80].map(Duration::from_secs));

        let request = client.message(&Asked::Offered(&offer), 6);
        let packet = DhcpPacket::new_checked(&request).unwrap();
        let parsed = DhcpRepr::parse(&packet).unwrap();
        assert_eq!((parsed.requested_ip, parsed.broadcast), (Some(offer.address), true));
        let Some(Answer::Lease(lease)) = client.answer(&said(&request, DhcpMessageType::Ack, |_| {}), 6)
        else {
            panic!("no lease")
        };
        assert_eq!(lease, offer);
        let renewal = client.message(&Asked::Renewal(&lease), 7);
        let packet = DhcpPacket::new_checked(&renewal).unwrap();
        let parsed = DhcpRepr::parse(&packet).unwrap();
        assert_eq!((parsed.client_ip, parsed.requested_ip, parsed.broadcast), (lease.address, None, false));
    }

    #[test]
    fn what_is_not_for_this_client_is_passed_over() {
        let (client, other) = (Client::new(MAC), Client::new([2; 6]));
        let question = client.message(&Asked::Any, 5);
        let offer = said(&question, DhcpMessageType::Offer, |_| {});
        assert_eq!((client.answer(&offer, 4), other.answer(&offer, 5)), (None, None));
        assert_eq!(client.answer(&offer[..200], 5), None);
        assert_eq!(client.answer(&said(&question, DhcpMessageType::Nak, |_| {}), 5), Some(Answer::Refusal));
        let nobody = said(&question, DhcpMessageType::Ack, |reply| reply.your_ip = Ipv4Addr::UNSPECIFIED);
        assert_eq!(client.answer(&nobody, 5), None);
    }

    #[test]
    fn times_that_contradict_each_other_are_not_believed() {
        let client = Client::new(MAC);
        let question = client.message(&Asked::Any, 5);
        let offer = said(&question, DhcpMessageType::Offer, |reply| {
            reply.lease_duration = Some(0);
            (reply.renew_duration, reply.rebind_duration) = (Some(100), Some(90));
        });
        let Some(Answer::Offer(offer)) = client.answer(&offer, 5) else { panic!("no offer") };
        assert_eq!([offer.renew, offer.duration], [2, 4].map(Duration::from_secs));
        assert!(offer.renew <= offer.rebind && offer.rebind < offer.duration);
    }
}
