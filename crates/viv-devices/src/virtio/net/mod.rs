//! virtio-net: a network interface (VIRTIO 1.3, 5.1).
//!
//! An interface has one or more pairs of queues, one for frames to the guest and one for frames from it, each pair with
//! a back end on the host, a [`NetBackend`]; and a queue for commands (`control.rs`). Each frame has a [`VnetHeader`]
//! before it that says what was left undone: guest and back end leave checksums, and cutting large TCP segments, to each
//! other as far as both agreed to ([`Offloads`]).
//!
//! # Who waits for whom
//!
//! What the back end has no room for stays in the guest's ring. While the guest has no buffers the back end is not read;
//! of a frame that turns out to be longer than all of the guest's buffers one is kept for each pair. The machine calls
//! [`Net::process_pair`] whenever a back end has become ready to be read or written (an edge-triggered notice will do);
//! the guest's side comes by the doorbell. What is more than the interface's limits let through waits in the same places
//! ([`Throttles`]).
//!
//! A frame is copied once between ring and back end.

mod backend;
mod control;
mod filter;
mod header;
mod pair;
mod regs;
mod state;
#[cfg(test)]
mod tests;

pub use backend::{MAX_FRAME, NetBackend, Offloads, Sent};
pub use filter::MacAddress;
pub use header::VnetHeader;

use super::device::{Kind, QueueResources, QueueState, VirtioDevice};
use super::queue::{Outcome, RingError, Virtqueue};
use super::read_config_bytes;
use super::throttle::Throttle;
use crate::{DeviceError, SavedState};
use filter::Filter;
use pair::{Pair, Rules};
use regs::{Config, feature, status};

const QUEUE_SIZE: u16 = 256;
const CONTROL_QUEUE_SIZE: u16 = 64;

/// An interface to be made.
pub struct NetConfig {
    /// Its address, until the guest changes it.
    pub mac: MacAddress,
    /// The longest packet, in bytes, that the guest should send, if it is not to choose.
    pub mtu: Option<u16>,
    /// The host's ends, one for each pair of queues; from 1 to [`Net::MAX_PAIRS`].
    pub backends: Vec<Box<dyn NetBackend>>,
    /// How much it may be used, if there is a limit.
    pub throttles: Option<Throttles>,
}

/// The limits of an interface, all of its queues together: packets and bytes of frames. A large segment that is left to the
/// other side to cut counts as the packets that it becomes.
pub struct Throttles {
    /// Of what goes to the guest.
    pub receive: Throttle,
    /// Of what comes from it.
    pub transmit: Throttle,
}

/// A virtio network interface.
pub struct Net {
    /// The address that it was made with.
    first_mac: MacAddress,
    mac: MacAddress,
    mtu: Option<u16>,
    status: u16,
    pairs: Vec<Pair>,
    /// How many pairs the driver uses.
    active: usize,
    /// The pair that went first when the limits last let something through.
    first: usize,
    filter: Filter,
    /// What the driver negotiated.
    features: u64,
    /// What the driver has asked for since by command, as features.
    guest_offloads: Option<u64>,
    throttles: Option<Throttles>,
    queues: Vec<Option<Virtqueue>>,
}

/// What a queue is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Receive(usize),
    Transmit(usize),
    Control,
}

impl Net {
    /// The most pairs of queues: with the control queue they are fewer than 64.
    pub const MAX_PAIRS: usize = 31;

    /// An interface whose link is up.
    #[must_use]
    pub fn new(config: NetConfig) -> Self {
        let NetConfig { mac, mtu, backends, throttles } = config;
        let pairs: Vec<_> = backends.into_iter().take(Self::MAX_PAIRS).map(Pair::new).collect();
        let queues = pairs.len().saturating_mul(2).saturating_add(1);
        let mut net = Self {
            first_mac: mac,
            mac,
            mtu,
            status: status::LINK_UP,
            pairs,
            active: 1,
            first: 0,
            filter: Filter::default(),
            features: 0,
            guest_offloads: None,
            throttles,
            queues: std::iter::repeat_with(|| None).take(queues).collect(),
        };
        net.set_active(1);
        net
    }

    /// The cable is plugged in or pulled out: the guest gets to know, and without a link no frames pass.
    pub fn set_link(&mut self, up: bool) {
        let status = (self.status & !status::LINK_UP) | if up { status::LINK_UP } else { 0 };
        self.set_status(status);
        for index in 0..self.pairs.len() {
            self.process_pair(index);
        }
    }

    /// Asks the guest to tell the network where it is, as after it has moved.
    pub fn announce(&mut self) {
        if self.features & feature::GUEST_ANNOUNCE != 0 {
            self.set_status(self.status | status::ANNOUNCE);
        }
    }

    fn set_status(&mut self, status: u16) {
        if self.status != status {
            self.status = status;
            if let Some(queue) = self.queues.iter().flatten().next() {
                queue.interrupt().config_changed();
            }
        }
    }

    /// The back end of pair `index` has frames, or room.
    pub fn process_pair(&mut self, index: usize) {
        self.transmit(index);
        self.receive(index);
        self.follow(index);
    }

    /// Goes on with what had to wait for the limits.
    pub fn resume(&mut self) {
        // Another one first each time, which may take all that the limits let through.
        self.first = self.first.saturating_add(1).checked_rem(self.active).unwrap_or(0);
        for index in (self.first..self.active).chain(0..self.first) {
            self.process_pair(index);
        }
    }

    /// Does what one direction calls for in the other.
    fn follow(&mut self, index: usize) {
        let Some(pair) = self.pairs.get_mut(index) else { return };
        let mut calls = pair.take_calls();
        if calls.receiving {
            self.receive(index);
            calls.sending |= self.pairs.get_mut(index).is_some_and(|pair| pair.take_calls().sending);
        }
        let queue = index.saturating_mul(2).saturating_add(1);
        if calls.sending
            && let Some(queue) = self.queues.get(queue).and_then(Option::as_ref)
        {
            queue.come_again();
        }
    }

    /// What all back ends can do.
    fn offered(&self) -> Offloads {
        self.pairs.iter().fold(Offloads::all(), |all, pair| all & pair.backend.offloads())
    }

    fn is_up(&self) -> bool {
        self.status & status::LINK_UP != 0
    }

    fn role(&self, index: u16) -> Role {
        let index = usize::from(index);
        // Without MQ the control queue comes after the first pair (5.1.2).
        let control = if self.features & feature::MQ == 0 { 2 } else { self.pairs.len().saturating_mul(2) };
        match index {
            index if index == control => Role::Control,
            index if index.is_multiple_of(2) => Role::Receive(index / 2),
            index => Role::Transmit(index / 2),
        }
    }

    /// From the guest to the host. Without a link frames are lost.
    fn transmit(&mut self, index: usize) {
        let offloads = Offloads::of_host(self.features);
        let (is_up, active) = (self.is_up(), self.active);
        let mut throttle = self.throttles.as_mut().map(|throttles| &mut throttles.transmit);
        let Some(pair) = self.pairs.get_mut(index).filter(|_| index < active) else { return };
        let queue = index.saturating_mul(2).saturating_add(1);
        let Some(queue) = self.queues.get_mut(queue).and_then(Option::as_mut) else { return };
        queue.serve(|chain| {
            if !is_up {
                return Ok(Outcome::Done(0));
            }
            pair.send(chain, offloads, throttle.as_deref_mut())
        });
    }

    /// From the host to the guest. Without a link they stay with the host.
    fn receive(&mut self, index: usize) {
        let rules = Rules {
            filter: &self.filter,
            mac: &self.mac,
            offloads: Offloads::of_guest(self.guest_offload_features_on()),
            mergeable: self.features & feature::MRG_RXBUF != 0,
        };
        let usable = self.is_up() && index < self.active;
        let mut throttle = self.throttles.as_mut().map(|throttles| &mut throttles.receive);
        let Some(pair) = self.pairs.get_mut(index).filter(|_| usable) else { return };
        let queue = index.saturating_mul(2);
        let Some(queue) = self.queues.get_mut(queue).and_then(Option::as_mut) else { return };
        queue.fill(|gather| pair.receive(gather, &rules, throttle.as_deref_mut()));
    }

    fn receive_control(&mut self) {
        let Some(index) = (0..=u16::MAX).take(self.queues.len()).find(|i| self.role(*i) == Role::Control)
        else {
            return;
        };
        // A command may change anything here, so its queue is taken out meanwhile.
        let slot = usize::from(index);
        let Some(mut queue) = self.queues.get_mut(slot).and_then(Option::take) else { return };
        queue.serve(|chain| self.control(chain));
        if let Some(slot) = self.queues.get_mut(slot) {
            *slot = Some(queue);
        }
    }

    /// Lets the driver use the first `count` pairs of queues.
    fn set_active(&mut self, count: usize) {
        self.active = count;
        for (index, pair) in self.pairs.iter_mut().enumerate() {
            pair.backend.set_active(index < count);
        }
        for index in 0..count {
            self.process_pair(index);
        }
    }

    /// What can be left to the driver, as features it negotiated.
    fn guest_offload_features(&self) -> u64 {
        self.features & Offloads::all().guest_features()
    }

    /// Those of them that are on.
    fn guest_offload_features_on(&self) -> u64 {
        self.guest_offloads.unwrap_or(u64::MAX) & self.guest_offload_features()
    }

    /// Tells the back ends what they may leave to the driver.
    fn apply_offloads(&mut self) {
        let offloads = Offloads::of_guest(self.guest_offload_features_on());
        for pair in &mut self.pairs {
            pair.backend.set_guest_offloads(offloads);
        }
    }
}

impl VirtioDevice for Net {
    fn kind(&self) -> Kind {
        Kind { id: 1, class: 0x02_00_00 }
    }

    fn features(&self) -> u64 {
        let offloads = self.offered();
        let control = feature::CTRL_VQ
            | feature::CTRL_RX
            | feature::CTRL_RX_EXTRA
            | feature::CTRL_MAC_ADDR
            | feature::CTRL_GUEST_OFFLOADS
            | feature::GUEST_ANNOUNCE;
        let optional = |offered, feature| if offered { feature } else { 0 };
        control
            | feature::MAC
            | feature::STATUS
            | feature::MRG_RXBUF
            | offloads.host_features()
            | offloads.guest_features()
            | optional(self.mtu.is_some(), feature::MTU)
            | optional(self.pairs.len() > 1, feature::MQ)
    }

    fn queue_sizes(&self) -> Vec<u16> {
        let mut sizes = vec![QUEUE_SIZE; self.queues.len().saturating_sub(1)];
        sizes.push(CONTROL_QUEUE_SIZE);
        sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = Config {
            mac: self.mac,
            status: self.status,
            max_virtqueue_pairs: u16::try_from(self.pairs.len()).unwrap_or(u16::MAX),
            mtu: self.mtu.unwrap_or_default(),
        };
        read_config_bytes(&config.bytes(), offset, data);
    }

    fn start_queue(
        &mut self,
        resources: QueueResources,
        features: u64,
        state: QueueState,
    ) -> Result<(), RingError> {
        let index = usize::from(resources.index);
        let queue = Virtqueue::new(resources, features, state)?;
        if self.queues.iter().all(Option::is_none) {
            self.features = features;
            self.apply_offloads();
        }
        if let Some(slot) = self.queues.get_mut(index) {
            *slot = Some(queue);
        }
        Ok(())
    }

    fn stop_queue(&mut self, index: u16) -> Option<QueueState> {
        Some(self.queues.get_mut(usize::from(index))?.take()?.state())
    }

    fn process_queue(&mut self, index: u16) {
        match self.role(index) {
            Role::Receive(pair) => {
                self.receive(pair);
                self.follow(pair);
            }
            Role::Transmit(pair) => {
                self.transmit(pair);
                self.follow(pair);
            }
            Role::Control => self.receive_control(),
        }
    }

    fn reset(&mut self) {
        self.mac = self.first_mac;
        self.status &= !status::ANNOUNCE;
        self.features = 0;
        self.guest_offloads = None;
        self.filter = Filter::default();
        for pair in &mut self.pairs {
            pair.reset();
        }
        self.set_active(1);
        self.apply_offloads();
    }

    fn save(&self) -> Result<SavedState, DeviceError> {
        self.save_state()
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        self.restore_state(state)
    }
}
