//! The host's end of a pair of queues.

use bitflags::bitflags;

use super::VnetHeader;
use super::regs::feature;

bitflags! {
    /// What need not be done to a frame before it is handed over, because the other side does it or has no need of it.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Offloads: u8 {
        /// The checksum of TCP or UDP ([`VnetHeader::NEEDS_CSUM`]).
        const CHECKSUM = 1;
        /// Cutting TCP over IPv4 into segments.
        const TSO4 = 2;
        /// Cutting TCP over IPv6 into segments.
        const TSO6 = 4;
    }
}

/// Each with the features by which a driver leaves it to the device, and the device to the driver.
const FEATURES: [(Offloads, u64, u64); 3] = [
    (Offloads::CHECKSUM, feature::CSUM, feature::GUEST_CSUM),
    (Offloads::TSO4, feature::HOST_TSO4, feature::GUEST_TSO4),
    (Offloads::TSO6, feature::HOST_TSO6, feature::GUEST_TSO6),
];

impl Offloads {
    /// The features by which these are left to the device.
    pub(super) fn host_features(self) -> u64 {
        FEATURES.iter().filter(|(one, ..)| self.contains(*one)).fold(0, |all, (_, host, _)| all | host)
    }

    /// The features by which these are left to the driver.
    pub(super) fn guest_features(self) -> u64 {
        FEATURES.iter().filter(|(one, ..)| self.contains(*one)).fold(0, |all, (.., guest)| all | guest)
    }

    /// What a driver that negotiated `features` leaves to the device.
    pub(super) fn of_host(features: u64) -> Self {
        FEATURES.iter().filter(|(_, host, _)| features & host != 0).map(|(one, ..)| *one).collect()
    }

    /// What can be left to a driver that has these of its features on. Segments are cut by whoever sums them up
    /// (5.1.3.1).
    pub(super) fn of_guest(features: u64) -> Self {
        let all: Self =
            FEATURES.iter().filter(|(.., guest)| features & guest != 0).map(|(one, ..)| *one).collect();
        if all.contains(Self::CHECKSUM) { all } else { Self::empty() }
    }
}

/// The longest frame: an IP packet of 65,535 bytes behind Ethernet's header with two tags for VLANs.
pub const MAX_FRAME: usize = 65_535 + 22;

/// What became of a frame of the guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It is on its way, or lost as frames may be.
    Done,
    /// The same, and because of it there may be frames for the guest.
    Answered,
    /// There is no room now. It is tried again when the guest has taken a frame, and when
    /// [`Net::process_pair`](super::Net::process_pair) is called because there is room.
    Full,
}

/// The host's end of a pair of queues. Nothing here may block.
pub trait NetBackend: Send {
    /// What it can do: what a guest may leave to it, and what it may leave to a guest.
    fn offloads(&self) -> Offloads;

    /// From now on it may leave these to the guest, and no others.
    fn set_guest_offloads(&mut self, offloads: Offloads);

    /// Whether the guest uses this pair of queues. One that is not used gets no frames.
    fn set_active(&mut self, _active: bool) {}

    /// Takes a frame from the guest.
    fn send(&mut self, header: &VnetHeader, frame: &[u8]) -> Sent;

    /// Gives a frame for the guest, which it puts at the beginning of `buffer`, with its length. The buffer may be
    /// resized; it is the same each time. When there is no frame, [`Net::process_pair`](super::Net::process_pair) is to be
    /// called once there is. It is not asked while the guest has no buffers.
    fn receive(&mut self, buffer: &mut Vec<u8>) -> Option<(VnetHeader, usize)>;
}
