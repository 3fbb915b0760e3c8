//! Names and numbers of virtio-net (VIRTIO 1.3, 5.1).

/// Feature bits (5.1.3).
pub(super) mod feature {
    /// The driver may leave checksums to the device.
    pub const CSUM: u64 = 1 << 0;
    /// The device may leave checksums to the driver.
    pub const GUEST_CSUM: u64 = 1 << 1;
    /// What the device may leave to the driver can be changed.
    pub const CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
    /// The MTU is in the configuration space.
    pub const MTU: u64 = 1 << 3;
    /// The MAC address is in the configuration space.
    pub const MAC: u64 = 1 << 5;
    /// The device may leave large TCP segments over IPv4 whole.
    pub const GUEST_TSO4: u64 = 1 << 7;
    /// The same over IPv6.
    pub const GUEST_TSO6: u64 = 1 << 8;
    /// The driver may leave large TCP segments over IPv4 whole.
    pub const HOST_TSO4: u64 = 1 << 11;
    /// The same over IPv6.
    pub const HOST_TSO6: u64 = 1 << 12;
    /// A frame may take several of the driver's buffers.
    pub const MRG_RXBUF: u64 = 1 << 15;
    /// Whether the link is up is in the configuration space.
    pub const STATUS: u64 = 1 << 16;
    /// There is a control queue.
    pub const CTRL_VQ: u64 = 1 << 17;
    /// Which kinds of frames are received can be chosen.
    pub const CTRL_RX: u64 = 1 << 18;
    /// The same, in more detail.
    pub const CTRL_RX_EXTRA: u64 = 1 << 20;
    /// The driver can be asked to announce itself to the network.
    pub const GUEST_ANNOUNCE: u64 = 1 << 21;
    /// There are several pairs of queues.
    pub const MQ: u64 = 1 << 22;
    /// The MAC address can be changed.
    pub const CTRL_MAC_ADDR: u64 = 1 << 23;
}

/// Bits of the status in the configuration space (5.1.4).
pub(super) mod status {
    /// The link is up.
    pub const LINK_UP: u16 = 1;
    /// The driver is asked to announce itself.
    pub const ANNOUNCE: u16 = 2;
}

/// Classes of control commands (5.1.6.5).
pub(super) mod class {
    pub const RX: u8 = 0;
    pub const MAC: u8 = 1;
    pub const ANNOUNCE: u8 = 3;
    pub const MQ: u8 = 4;
    pub const GUEST_OFFLOADS: u8 = 5;
}

/// Commands of [`class::RX`], each followed by a byte that is 1 for on (5.1.6.5.1).
pub(super) mod rx {
    pub const PROMISC: u8 = 0;
    pub const ALLMULTI: u8 = 1;
    pub const ALLUNI: u8 = 2;
    pub const NOMULTI: u8 = 3;
    pub const NOUNI: u8 = 4;
    pub const NOBCAST: u8 = 5;
}

/// Commands of [`class::MAC`] (5.1.6.5.2).
pub(super) mod mac {
    /// Two tables of addresses, each after their number: single hosts', groups'.
    pub const TABLE_SET: u8 = 0;
    /// The device's own address.
    pub const ADDR_SET: u8 = 1;
}

/// The command of [`class::ANNOUNCE`]: it is being done (5.1.6.5.4).
pub(super) const ANNOUNCE_ACK: u8 = 0;
/// The command of [`class::MQ`]: how many pairs of queues are used, 16 bits (5.1.6.5.5).
pub(super) const VQ_PAIRS_SET: u8 = 0;
/// The command of [`class::GUEST_OFFLOADS`]: what is left to the driver, as 64 feature bits (5.1.6.5.6).
pub(super) const GUEST_OFFLOADS_SET: u8 = 0;

/// How a control command went.
pub(super) mod ack {
    pub const OK: u8 = 0;
    pub const ERR: u8 = 1;
}

/// The fields of the configuration space that there are (5.1.4).
pub(super) struct Config {
    pub(super) mac: [u8; 6],
    pub(super) status: u16,
    pub(super) max_virtqueue_pairs: u16,
    pub(super) mtu: u16,
}

impl Config {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut config = Vec::with_capacity(12);
        config.extend(self.mac);
        config.extend(self.status.to_le_bytes());
        config.extend(self.max_virtqueue_pairs.to_le_bytes());
        config.extend(self.mtu.to_le_bytes());
        config
    }
}
