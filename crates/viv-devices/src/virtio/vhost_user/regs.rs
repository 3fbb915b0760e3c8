//! Names and numbers of the devices that back ends do the work of.

use crate::virtio::feature;

/// The features of a ring that a back end has to do with. Whether somebody is told of each position is settled on both sides
/// of this device by itself.
pub(super) const RING: u64 = feature::VERSION_1 | feature::RING_INDIRECT_DESC;

/// Disks (VIRTIO 1.3, 5.2).
pub(super) mod block {
    /// The device id.
    pub const ID: u16 = 2;
    /// The PCI class: a storage controller.
    pub const CLASS: u32 = 0x01_80_00;
    /// There are several queues.
    pub const MQ: u64 = 1 << 12;
    /// What is handed on: SIZE_MAX, SEG_MAX, GEOMETRY, RO, BLK_SIZE, FLUSH, TOPOLOGY, MQ, DISCARD and WRITE_ZEROES (5.2.3),
    /// which have to do with nothing past [`CONFIG_SIZE`], and with nothing that the driver writes.
    pub const FEATURES: u64 = 0b0111_0110_0111_0110;
    /// Bytes of the configuration space up to what came after version 1.1.
    pub const CONFIG_SIZE: u16 = 60;
    /// The number of queues in it, 16 bits.
    pub const NUM_QUEUES: usize = 34;
    /// The status of a request that failed (5.2.6).
    pub const IOERR: u8 = 1;
}

/// Network interfaces (VIRTIO 1.3, 5.1).
pub(super) mod net {
    /// The device id.
    pub const ID: u16 = 1;
    /// The PCI class: an Ethernet controller.
    pub const CLASS: u32 = 0x02_00_00;
    /// The MAC address is in the configuration space.
    pub const MAC: u64 = 1 << 5;
    /// Whether the link is up is in the configuration space.
    pub const STATUS: u64 = 1 << 16;
    /// What is handed on: checksums, segmentation, ECN and UFO in both directions, and mergeable buffers (5.1.3).
    pub const FEATURES: u64 = 0b1111_1111_1000_0011;
    /// The status of a link that is up.
    pub const LINK_UP: u16 = 1;
}

/// File systems (VIRTIO 1.3, 5.11).
pub(super) mod file_system {
    /// The device id.
    pub const ID: u16 = 26;
    /// The PCI class: a storage controller.
    pub const CLASS: u32 = 0x01_80_00;
    /// Bytes of the tag in the configuration space.
    pub const TAG: usize = 36;
    /// Where a request has the number by which its answer is known.
    pub const UNIQUE: std::ops::Range<usize> = 8..16;
    /// Bytes of the head of an answer: its length, an error, the number.
    pub const OUT_HEADER: u32 = 16;
    /// An error of input or output.
    pub const EIO: i32 = -5;
}
