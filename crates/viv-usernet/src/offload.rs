//! What a frame leaves to its sender or receiver: the meaning of `struct virtio_net_hdr` (VIRTIO 1.3, 5.1.6).

/// What is still to be done to a frame, or need not be done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offload {
    /// The state of the checksum of its transport header.
    pub checksum: Checksum,
    /// Into what it is to be cut.
    pub segment: Option<Segment>,
}

/// The state of a transport checksum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Checksum {
    /// It is in the frame, and nobody has looked at it.
    #[default]
    None,
    /// The field holds the sum of the pseudo-header alone (VIRTIO_NET_HDR_F_NEEDS_CSUM).
    Partial {
        /// Where the sum begins, in bytes from the start of the frame.
        start: u16,
        /// Where the field is, in bytes from `start`.
        offset: u16,
    },
    /// It was found right (VIRTIO_NET_HDR_F_DATA_VALID).
    Valid,
}

/// A frame that stands for several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Of which protocol it is.
    pub kind: SegmentKind,
    /// The payload of each segment but the last, in bytes.
    pub size: u16,
}

/// The protocols whose segments may come together (VIRTIO_NET_HDR_GSO_*).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// Datagrams of UDP.
    Udp,
}

/// What the guest's driver takes. By default nothing: frames are whole, and none exceeds the MTU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GuestOffloads {
    /// Partial checksums (VIRTIO_NET_F_GUEST_CSUM).
    pub checksum: bool,
    /// Uncut TCP over IPv4, in frames of up to 64 KiB (VIRTIO_NET_F_GUEST_TSO4). It takes `checksum` too.
    pub tso4: bool,
    /// Uncut TCP over IPv6 (VIRTIO_NET_F_GUEST_TSO6). It takes `checksum` too.
    pub tso6: bool,
}
