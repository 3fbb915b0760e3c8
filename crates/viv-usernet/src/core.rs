//! What all parts of the router share.

use std::collections::{HashSet, VecDeque};
use std::net::{IpAddr, Ipv6Addr};

use smoltcp::wire::EthernetAddress;

use crate::config::Config;
use crate::error::Error;
use crate::frame::Link;
use crate::host::Host;
use crate::offload::{GuestOffloads, Offload};
use crate::resolvers::Resolvers;
use crate::slots::Id;
use crate::timers::{Alarm, Timers};

/// How many replies wait for the guest at the most. Each is one frame.
const MAX_REPLIES: usize = 512;

/// Who something is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Token {
    /// The clock of all alarms.
    Clock,
    /// What the router does by itself.
    Router,
    /// A TCP connection.
    Connection(Id),
    /// A flow of datagrams.
    Flow(Id),
    /// A published port.
    Published(Id),
}

impl Token {
    /// As a number, by which the host names it.
    pub(crate) fn bits(self) -> u64 {
        let (kind, bits) = match self {
            Self::Clock => (0, 0),
            Self::Router => (1, 0),
            Self::Connection(id) => (2, id.bits()),
            Self::Flow(id) => (3, id.bits()),
            Self::Published(id) => (4, id.bits()),
        };
        kind << 56 | bits
    }

    /// From [`Token::bits`].
    pub(crate) fn from_bits(bits: u64) -> Self {
        let id = Id::from_bits(bits);
        match bits >> 56 {
            0 => Self::Clock,
            1 => Self::Router,
            2 => Self::Connection(id),
            3 => Self::Flow(id),
            _ => Self::Published(id),
        }
    }
}

/// What all parts share.
#[derive(Debug)]
pub(crate) struct Core {
    pub config: Config,
    pub host: Host,
    pub timers: Timers,
    pub resolvers: Resolvers,
    /// What the guest's driver takes.
    pub offloads: GuestOffloads,
    /// The guest's link address, once it has sent something.
    pub guest: Option<EthernetAddress>,
    /// The guest's address in the IPv6 network, once it has sent something from there.
    pub guest_v6: Option<Ipv6Addr>,
    /// Who has something for the guest, each once, in turn.
    pub ready: VecDeque<Token>,
    /// A place for one datagram.
    pub scratch: Vec<u8>,
    /// The next number of a packet in parts.
    identification: u32,
    replies: VecDeque<(Offload, Vec<u8>)>,
    /// What was said to the log.
    told: HashSet<&'static str>,
}

impl Core {
    pub(crate) fn new(config: Config) -> Result<Self, Error> {
        Ok(Self {
            host: Host::new()?,
            timers: Timers::default(),
            resolvers: Resolvers::new(config.resolv_conf.clone()),
            offloads: GuestOffloads::default(),
            guest: None,
            guest_v6: None,
            ready: VecDeque::new(),
            scratch: vec![0; 1 << 16],
            identification: 0,
            replies: VecDeque::new(),
            told: HashSet::new(),
            config,
        })
    }

    /// The link's ends; a guest that is not known yet is reached by the address of all.
    pub(crate) fn link(&self) -> Link {
        Link {
            gateway: EthernetAddress(self.config.gateway_mac),
            guest: self.guest.unwrap_or(EthernetAddress::BROADCAST),
        }
    }

    /// Whether an address is the router's or the name server's.
    pub(crate) fn is_gateway(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => address == self.config.ipv4.gateway,
            IpAddr::V6(address) => self.config.ipv6.is_some_and(|v6| address == v6.gateway),
        }
    }

    /// Whether an address is the name server's.
    pub(crate) fn is_dns(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => address == self.config.ipv4.dns,
            IpAddr::V6(address) => self.config.ipv6.is_some_and(|v6| address == v6.dns),
        }
    }

    /// Says something to the log, once: a guest must not be able to fill it.
    pub(crate) fn warn(&mut self, what: &'static str) {
        if self.told.insert(what) {
            tracing::warn!("{what}");
        }
    }

    /// Whether there is no room for replies.
    pub(crate) fn is_congested(&self) -> bool {
        self.replies.len() >= MAX_REPLIES
    }

    /// Leaves a frame for the guest, if there is room.
    pub(crate) fn reply(&mut self, frame: Vec<u8>) {
        self.reply_with(Offload::default(), frame);
    }

    /// The same with what is still to be done to the frame.
    pub(crate) fn reply_with(&mut self, offload: Offload, frame: Vec<u8>) {
        if !self.is_congested() {
            self.replies.push_back((offload, frame));
        }
    }

    /// Takes the next frame that was left.
    pub(crate) fn next_reply(&mut self) -> Option<(Offload, Vec<u8>)> {
        self.replies.pop_front()
    }

    /// Forgets who the guest is, and what was left for it.
    pub(crate) fn forget_guest(&mut self) {
        self.guest = None;
        self.guest_v6 = None;
        self.offloads = GuestOffloads::default();
        self.replies.clear();
        self.ready.clear();
    }

    /// A number for a packet in parts.
    pub(crate) fn identification(&mut self) -> u32 {
        self.identification = self.identification.wrapping_add(1);
        self.identification
    }

    /// Sets an alarm.
    pub(crate) fn set_alarm(&mut self, alarm: &mut Alarm, token: Token, after: std::time::Duration) {
        self.timers.set(alarm, token, after);
    }
}
