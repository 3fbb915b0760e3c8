//! Packets and their fields (VIRTIO 1.3, 5.10).

use bitflags::bitflags;

/// Feature bits (5.10.3).
pub(super) mod feature {
    /// There are streams.
    pub const STREAM: u64 = 1 << 0;
}

/// The queues (5.10.2).
pub(super) mod queue {
    /// To the guest.
    pub const RECEIVE: u16 = 0;
    /// From the guest.
    pub const TRANSMIT: u16 = 1;
    pub const EVENT: u16 = 2;
}

/// The host's address (5.10.4).
pub(super) const HOST_CID: u64 = 2;
/// The type of streams.
pub(super) const STREAM: u16 = 1;
/// The event after which the driver's connections are gone, and its address may be another (5.10.6.7).
pub(super) const TRANSPORT_RESET: u32 = 0;

/// What a packet says.
pub(super) mod op {
    pub const REQUEST: u16 = 1;
    pub const RESPONSE: u16 = 2;
    pub const RST: u16 = 3;
    pub const SHUTDOWN: u16 = 4;
    pub const RW: u16 = 5;
    pub const CREDIT_UPDATE: u16 = 6;
    pub const CREDIT_REQUEST: u16 = 7;
}

bitflags! {
    /// What its sender will not do any more.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub(super) struct Shutdown: u32 {
        const RECEIVE = 1;
        const SEND = 2;
    }
}

/// What a packet begins with (5.10.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Header {
    pub(super) src_cid: u64,
    pub(super) dst_cid: u64,
    pub(super) src_port: u32,
    pub(super) dst_port: u32,
    /// Bytes that follow.
    pub(super) len: u32,
    pub(super) kind: u16,
    pub(super) op: u16,
    pub(super) flags: u32,
    /// The sender's room for bytes that it has not passed on.
    pub(super) buf_alloc: u32,
    /// How many bytes the sender has passed on since the beginning.
    pub(super) fwd_cnt: u32,
}

impl Header {
    pub(super) const LENGTH: usize = 44;

    pub(super) fn from_bytes(bytes: [u8; Self::LENGTH]) -> Self {
        let mut rest = bytes.as_slice();
        let mut next = |length: usize| {
            let (field, after) = rest.split_at_checked(length).unwrap_or_default();
            rest = after;
            let mut value = [0; 8];
            value.iter_mut().zip(field).for_each(|(to, from)| *to = *from);
            u64::from_le_bytes(value)
        };
        Self {
            src_cid: next(8),
            dst_cid: next(8),
            src_port: next(4) as u32,
            dst_port: next(4) as u32,
            len: next(4) as u32,
            kind: next(2) as u16,
            op: next(2) as u16,
            flags: next(4) as u32,
            buf_alloc: next(4) as u32,
            fwd_cnt: next(4) as u32,
        }
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::LENGTH);
        bytes.extend(self.src_cid.to_le_bytes());
        bytes.extend(self.dst_cid.to_le_bytes());
        bytes.extend(self.src_port.to_le_bytes());
        bytes.extend(self.dst_port.to_le_bytes());
        bytes.extend(self.len.to_le_bytes());
        bytes.extend(self.kind.to_le_bytes());
        bytes.extend(self.op.to_le_bytes());
        bytes.extend(self.flags.to_le_bytes());
        bytes.extend(self.buf_alloc.to_le_bytes());
        bytes.extend(self.fwd_cnt.to_le_bytes());
        bytes
    }
}
