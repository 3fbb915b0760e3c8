//! What goes before every frame (VIRTIO 1.3, 5.1.6).

use serde::{Deserialize, Serialize};

use super::Offloads;

/// What is left to be done to a frame: `struct virtio_net_hdr`, but for the number of buffers. Linux's tap interfaces have
/// the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VnetHeader {
    /// [`VnetHeader::NEEDS_CSUM`] and [`VnetHeader::DATA_VALID`].
    pub flags: u8,
    /// What the frame is to be cut into, [`VnetHeader::GSO_NONE`] for a frame that is whole.
    pub gso_type: u8,
    /// Bytes of the headers that each segment gets; a hint.
    pub hdr_len: u16,
    /// Bytes of data in each segment.
    pub gso_size: u16,
    /// Where the bytes begin that are to be summed up.
    pub csum_start: u16,
    /// Where the sum goes, from there.
    pub csum_offset: u16,
}

impl VnetHeader {
    /// Bytes of the structure in rings, with the number of buffers.
    pub const LENGTH: usize = 12;

    /// The frame has no checksum yet, only that of its pseudo header.
    pub const NEEDS_CSUM: u8 = 1;
    /// The checksum has been found to be right.
    pub const DATA_VALID: u8 = 2;

    /// The frame is whole.
    pub const GSO_NONE: u8 = 0;
    /// It is to become TCP segments over IPv4.
    pub const GSO_TCPV4: u8 = 1;
    /// It is to become TCP segments over IPv6.
    pub const GSO_TCPV6: u8 = 4;
    /// It is to become UDP datagrams.
    pub const GSO_UDP_L4: u8 = 5;

    /// The structure for a frame in `buffers` buffers.
    #[must_use]
    pub fn to_bytes(self, buffers: u16) -> [u8; Self::LENGTH] {
        let [h0, h1] = self.hdr_len.to_le_bytes();
        let [g0, g1] = self.gso_size.to_le_bytes();
        let [s0, s1] = self.csum_start.to_le_bytes();
        let [o0, o1] = self.csum_offset.to_le_bytes();
        let [n0, n1] = buffers.to_le_bytes();
        [self.flags, self.gso_type, h0, h1, g0, g1, s0, s1, o0, o1, n0, n1]
    }

    /// Reads the structure, without the number of buffers.
    #[must_use]
    pub fn from_bytes(bytes: [u8; Self::LENGTH]) -> Self {
        let [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1, ..] = bytes;
        Self {
            flags,
            gso_type,
            hdr_len: u16::from_le_bytes([h0, h1]),
            gso_size: u16::from_le_bytes([g0, g1]),
            csum_start: u16::from_le_bytes([s0, s1]),
            csum_offset: u16::from_le_bytes([o0, o1]),
        }
    }

    /// The same for who must not be told, or believed, that the checksum is right.
    pub(super) fn unverified(self) -> Self {
        Self { flags: self.flags & !Self::DATA_VALID, ..self }
    }

    /// What whoever gets the frame must be able to do; `None` if that is nothing we know.
    pub(super) fn needs(self) -> Option<Offloads> {
        let checksum =
            if self.flags & Self::NEEDS_CSUM == 0 { Offloads::empty() } else { Offloads::CHECKSUM };
        match self.gso_type {
            Self::GSO_NONE => Some(checksum),
            Self::GSO_TCPV4 => Some(checksum | Offloads::TSO4),
            Self::GSO_TCPV6 => Some(checksum | Offloads::TSO6),
            _ => None,
        }
    }
}
