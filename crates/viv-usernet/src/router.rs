//! The router: what comes is given to whom it concerns, and what is there for the guest is collected.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::time::Instant;

use smoltcp::wire::{EthernetAddress, IpProtocol};

use crate::config::{Config, Protocol, Publish};
use crate::core::{Core, Token};
use crate::datagram::Flows;
use crate::dhcp;
use crate::error::Error;
use crate::frame::{self, Content, Packet};
use crate::host;
use crate::icmp;
use crate::link;
use crate::offload::{Checksum, GuestOffloads, Offload, SegmentKind};
use crate::publish::Published;
use crate::reassembly::Reassembly;
use crate::saved::{Saved, SavedConnection};
use crate::slots::Id;
use crate::tcp::{self, Connections};
use crate::timers::Alarm;

/// How many of the host's answers one call of [`UserNet::poll`] takes: so many times [`host::EVENTS`].
const ROUNDS: usize = 16;
/// How many turns and alarms may be queued before those of connections that are gone are dropped.
const CROWD: usize = 16 << 10;

/// A user-mode network with one guest.
///
/// Of its connections nothing is saved with a machine but that they were there ([`UserNet::save`]). A guest that was restored
/// speaks to a new one, which resets them; its address stays good.
#[derive(Debug)]
pub struct UserNet {
    core: Core,
    connections: Connections,
    flows: Flows,
    published: Published,
    reassembly: Reassembly,
    /// Connections of which the guest is to be told that they are gone.
    gone: VecDeque<SavedConnection>,
    /// When the router next speaks by itself.
    alarm: Alarm,
    /// How many turns and alarms there may be before they are looked through.
    crowd: usize,
}

impl UserNet {
    /// Makes a network, and listens at the ports that it publishes.
    pub fn new(config: Config) -> Result<Self, Error> {
        config.check()?;
        let limits = config.limits;
        let core = Core::new(config)?;
        Ok(Self {
            published: Published::new(&core)?,
            core,
            connections: Connections::new(limits.connections, limits.buffered),
            flows: Flows::new(limits.flows),
            reassembly: Reassembly::default(),
            gone: VecDeque::new(),
            alarm: Alarm::default(),
            crowd: CROWD,
        })
    }

    /// A descriptor that is readable when [`UserNet::poll`] has something to do.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.core.host.fd()
    }

    /// What is published, and where on the host it listens.
    pub fn published(&self) -> impl Iterator<Item = (Publish, SocketAddr)> {
        self.published.iter().map(|(_, port)| (port.publish, port.address))
    }

    /// How many TCP connections the guest has.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Says what the guest's driver takes from now on.
    pub fn set_guest_offloads(&mut self, offloads: GuestOffloads) {
        self.core.offloads = offloads;
    }

    /// Forgets the guest, its connections and flows, as when it was reset. What is published stays.
    pub fn reset(&mut self) {
        self.connections.clear();
        self.flows.clear();
        self.reassembly = Reassembly::default();
        self.gone.clear();
        self.core.forget_guest();
        let ports: Vec<_> = self.published.iter().map(|(id, _)| id).collect();
        for id in ports {
            if let Some(port) = self.published.get_mut(id) {
                port.queued = false;
            }
        }
    }

    /// What is to be saved with the machine.
    #[must_use]
    pub fn save(&self) -> Saved {
        let connections = self.connections.saved().chain(self.gone.iter().copied()).collect();
        Saved { guest: self.core.guest.map(|guest| guest.0), connections }
    }

    /// Takes the place of a router that was saved: the guest is told that its connections are gone, or as many of them as it
    /// may have.
    pub fn restore(&mut self, saved: Saved) {
        let Some(guest) = saved.guest() else { return };
        self.gone = saved.connections;
        self.gone.truncate(self.core.config.limits.connections);
        if !self.gone.is_empty() {
            self.core.ready.push_back(Token::Router);
        }
        self.meet(guest);
        // Nothing of the host's would make anybody ask for frames.
        self.core.host.arm(Some(Instant::now()));
    }

    /// Takes an Ethernet frame of the guest's, of up to 64 KiB. What is malformed, or of no protocol that is known
    /// here, is dropped; so are datagrams of UDP that come together, which a driver must not be offered.
    ///
    /// False: too many replies wait for the guest. The frame was not looked at; it can be sent again when
    /// [`UserNet::receive`] has taken some.
    pub fn send(&mut self, offload: Offload, frame: &[u8]) -> bool {
        if self.core.is_congested() {
            return false;
        }
        if offload.segment.is_some_and(|segment| segment.kind == SegmentKind::Udp) {
            return true;
        }
        let gateway = EthernetAddress(self.core.config.gateway_mac);
        let Some((sender, content)) = frame::parse(frame, gateway) else { return true };
        self.meet(sender);
        match content {
            Content::Arp(payload) => link::arp(&mut self.core, payload),
            Content::Packet(packet) => self.packet(&packet, offload.checksum),
            Content::Fragment(fragment) => {
                if let Some(whole) = self.reassembly.add(&fragment, Instant::now()) {
                    self.packet(&whole.packet(), Checksum::None);
                }
            }
        }
        self.arm();
        true
    }

    /// Gives the next frame for the guest, and what is left to do to it. The frame's storage is used again.
    pub fn receive(&mut self, frame: &mut Vec<u8>) -> Option<Offload> {
        let offload = self.next_frame(frame);
        self.arm();
        offload
    }

    /// Looks at what the host has, and at what is due.
    pub fn poll(&mut self) {
        for _ in 0..ROUNDS {
            let events = self.core.host.events();
            let is_all = events.len() < host::EVENTS;
            for event in events {
                match event.token {
                    Token::Clock => self.core.host.struck(),
                    Token::Connection(id) => self.connections.event(&mut self.core, id, &event),
                    Token::Flow(id) if event.readable => self.flows.readable(&mut self.core, id),
                    Token::Published(id) if event.readable => self.knock(id),
                    Token::Router | Token::Flow(_) | Token::Published(_) => {}
                }
            }
            if is_all {
                break;
            }
        }
        self.strike();
        self.accept();
        self.arm();
    }

    /// Bytes of memory for data on its way to the guest.
    #[cfg(test)]
    pub(crate) fn buffered(&self) -> usize {
        self.connections.buffered()
    }

    #[cfg(test)]
    pub(crate) fn core_mut(&mut self) -> &mut Core {
        &mut self.core
    }

    /// Learns who the guest is from what it sends.
    fn meet(&mut self, sender: EthernetAddress) {
        if self.core.guest.replace(sender).is_some() {
            return;
        }
        self.core.set_alarm(&mut self.alarm, Token::Router, link::ADVERTISE_EVERY);
        // What came before it was known has waited.
        self.accept();
        let ports: Vec<_> =
            self.published.iter().filter(|(_, port)| port.readable).map(|(id, _)| id).collect();
        ports.into_iter().for_each(|id| self.knock(id));
    }

    fn packet(&mut self, packet: &Packet<'_>, sum: Checksum) {
        if !self.is_from_guest(packet.source) {
            // Before it has an address, the guest asks for one, and for its neighbours.
            if packet.source.is_unspecified() {
                self.nameless(packet);
            }
            return;
        }
        match packet.protocol {
            IpProtocol::Tcp => self.connections.packet(&mut self.core, packet, sum),
            IpProtocol::Udp if self.dhcp(packet) => {}
            IpProtocol::Udp => self.flows.udp(&mut self.core, &mut self.published, packet, sum),
            IpProtocol::Icmp | IpProtocol::Icmpv6 => self.icmp(packet),
            _ => {}
        }
    }

    fn nameless(&mut self, packet: &Packet<'_>) {
        match packet.protocol {
            IpProtocol::Udp => {
                self.dhcp(packet);
            }
            IpProtocol::Icmpv6 => {
                link::discovery(&mut self.core, packet);
            }
            _ => {}
        }
    }

    /// Whether a packet is to the DHCP server, which then has answered.
    fn dhcp(&mut self, packet: &Packet<'_>) -> bool {
        let Ok(datagram) = smoltcp::wire::UdpPacket::new_checked(packet.payload) else { return false };
        let to = SocketAddr::new(packet.destination, datagram.dst_port());
        let is_for_server = dhcp::is_for_server(&self.core, to);
        if is_for_server {
            dhcp::serve(&mut self.core, datagram.payload());
        }
        is_for_server
    }

    fn icmp(&mut self, packet: &Packet<'_>) {
        if packet.protocol == IpProtocol::Icmpv6 && link::discovery(&mut self.core, packet) {
            return;
        }
        let Some(request) = icmp::echo_request(packet) else { return };
        let to = packet.destination;
        if self.core.is_gateway(to) || self.core.is_dns(to) || to == IpAddr::V6(link::ROUTER) {
            icmp::answer_echo(&mut self.core, packet, request);
        } else {
            self.flows.echo(&mut self.core, &mut self.published, packet, request);
        }
    }

    /// Whether an address may be the guest's: in IPv4 it has one, in IPv6 it makes them up.
    fn is_from_guest(&mut self, source: IpAddr) -> bool {
        match (source, self.core.config.ipv6) {
            (IpAddr::V4(source), _) => source == self.core.config.ipv4.guest,
            (IpAddr::V6(source), Some(network)) => {
                if self.core.is_gateway(source.into()) || self.core.is_dns(source.into()) {
                    return false;
                }
                if network.contains(source) {
                    self.core.guest_v6 = Some(source);
                    return true;
                }
                source.is_unicast_link_local() && source != link::ROUTER
            }
            (IpAddr::V6(_), None) => false,
        }
    }

    /// Somebody is at a published port.
    fn knock(&mut self, id: Id) {
        let Some(port) = self.published.get_mut(id) else { return };
        port.readable = true;
        if port.publish.protocol == Protocol::Udp && !port.queued && self.core.guest.is_some() {
            port.queued = true;
            self.core.ready.push_back(Token::Published(id));
        }
    }

    /// Accepts who waits at published TCP ports. They wait there until a guest is known.
    fn accept(&mut self) {
        if self.core.guest.is_none() {
            return;
        }
        let is_open = |port: &crate::publish::Port| port.readable && port.publish.protocol == Protocol::Tcp;
        let ports: Vec<_> =
            self.published.iter().filter(|(_, port)| is_open(port)).map(|(id, _)| id).collect();
        for id in ports {
            self.connections.accept(&mut self.core, &mut self.published, id);
        }
    }

    fn next_frame(&mut self, frame: &mut Vec<u8>) -> Option<Offload> {
        // Each has one turn; who has nothing gives it away.
        for _ in 0..=self.core.ready.len() {
            if let Some((offload, reply)) = self.core.next_reply() {
                *frame = reply;
                return Some(offload);
            }
            let offload = match self.core.ready.pop_front()? {
                Token::Connection(id) => self.connections.produce(&mut self.core, id, frame),
                Token::Flow(id) => self.flows.produce(&mut self.core, id, frame),
                Token::Published(id) => {
                    self.flows.produce_published(&mut self.core, &mut self.published, id, frame)
                }
                Token::Router => self.farewell(frame),
                Token::Clock => None,
            };
            if offload.is_some() {
                return offload;
            }
        }
        let (offload, reply) = self.core.next_reply()?;
        *frame = reply;
        Some(offload)
    }

    /// Tells the guest of a connection that is gone.
    fn farewell(&mut self, frame: &mut Vec<u8>) -> Option<Offload> {
        let connection = self.gone.pop_front()?;
        if !self.gone.is_empty() {
            self.core.ready.push_back(Token::Router);
        }
        tcp::reset(&self.core, &connection, frame)
    }

    /// Does what is due.
    fn strike(&mut self) {
        let now = Instant::now();
        while let Some((entry, token)) = self.core.timers.pop(now) {
            match token {
                Token::Connection(id) => self.connections.expired(&mut self.core, id, entry, now),
                Token::Flow(id) => self.flows.expired(&mut self.core, id, entry, now),
                Token::Router if self.core.timers.goes_off(&mut self.alarm, token, entry, now) => {
                    link::advertise(&mut self.core);
                    self.core.set_alarm(&mut self.alarm, token, link::ADVERTISE_EVERY);
                }
                Token::Router | Token::Clock | Token::Published(_) => {}
            }
        }
    }

    /// Sets the clock for what is due next, and drops what is queued for nobody when there is too much of it.
    fn arm(&mut self) {
        let queued = self.core.ready.len().max(self.core.timers.len());
        if queued > self.crowd {
            let (connections, flows) = (&mut self.connections, &mut self.flows);
            let mut is_live = |token: Token| match token {
                Token::Connection(id) => connections.is_live(id),
                Token::Flow(id) => flows.is_live(id),
                Token::Clock | Token::Router | Token::Published(_) => true,
            };
            self.core.ready.retain(|token| is_live(*token));
            self.core.timers.retain(&mut is_live);
            let left = self.core.ready.len().max(self.core.timers.len());
            self.crowd = left.saturating_mul(2).max(CROWD);
        }
        self.core.host.arm(self.core.timers.next());
    }
}
