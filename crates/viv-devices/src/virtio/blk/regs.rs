//! Names and numbers of virtio-blk (VIRTIO 1.3, 5.2).

use super::QUEUE_SIZE;

/// Feature bits (5.2.3).
pub(super) mod feature {
    /// Segments have a greatest size.
    pub const SIZE_MAX: u64 = 1 << 1;
    /// Requests have a greatest number of segments.
    pub const SEG_MAX: u64 = 1 << 2;
    /// The disk can only be read.
    pub const RO: u64 = 1 << 5;
    /// The block size is in the configuration space.
    pub const BLK_SIZE: u64 = 1 << 6;
    /// There is a flush request.
    pub const FLUSH: u64 = 1 << 9;
    /// Preferred sizes and alignments are in the configuration space.
    pub const TOPOLOGY: u64 = 1 << 10;
    /// The driver can choose between write-back and write-through.
    pub const CONFIG_WCE: u64 = 1 << 11;
    /// There are several queues.
    pub const MQ: u64 = 1 << 12;
    /// There is a discard request.
    pub const DISCARD: u64 = 1 << 13;
    /// There is a request to write zeroes.
    pub const WRITE_ZEROES: u64 = 1 << 14;
}

/// Request types (5.2.6).
pub(super) mod request {
    pub const IN: u32 = 0;
    pub const OUT: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const GET_ID: u32 = 8;
    pub const DISCARD: u32 = 11;
    pub const WRITE_ZEROES: u32 = 13;
}

/// Status bytes (5.2.6).
pub(super) mod status {
    pub const OK: u8 = 0;
    pub const IOERR: u8 = 1;
    pub const UNSUPP: u8 = 2;
}

/// Bytes of a request's header: type, a reserved word, sector.
pub(super) const HEADER: usize = 16;
/// Bytes of a range to discard or zero: sector, number of sectors, flags.
pub(super) const RANGE: usize = 16;
/// Flag of a range to zero: the space may be given back.
pub(super) const UNMAP: u32 = 1;

/// The most bytes that a segment should have.
pub(super) const SIZE_MAX: u32 = 1 << 20;
/// The most segments that a request should have: the queue less header and status.
pub(super) const SEG_MAX: u32 = (QUEUE_SIZE as u32).saturating_sub(2);
/// The most data that a request may have.
pub(super) const MAX_DATA: u64 = (SIZE_MAX as u64).saturating_mul(SEG_MAX as u64);
/// The most sectors that one range may discard: 2 GiB.
pub(super) const MAX_DISCARD: u32 = 1 << 22;
/// The most sectors that one range may zero: 32 MiB, because the host may have to write them.
pub(super) const MAX_WRITE_ZEROES: u32 = 1 << 16;
/// The most ranges in a request to discard.
pub(super) const MAX_DISCARD_RANGES: u32 = 16;
/// The most ranges in a request to zero.
pub(super) const MAX_WRITE_ZEROES_RANGES: u32 = 1;

/// Where the choice between write-back and write-through is in the configuration space.
pub(super) const WRITEBACK: u64 = 32;

/// What of the configuration space is not the same for all disks.
pub(super) struct Config {
    /// In sectors.
    pub(super) capacity: u64,
    /// In bytes, a power of two.
    pub(super) physical_block: u32,
    pub(super) writeback: bool,
    pub(super) queues: u16,
}

/// The configuration space (5.2.4). Geometry and what else we do not offer stay zero.
pub(super) fn config(of: &Config) -> Vec<u8> {
    let sectors_in_block = of.physical_block.checked_div(viv_disk::SECTOR as u32).unwrap_or(1);
    let mut config = Vec::with_capacity(60);
    config.extend(of.capacity.to_le_bytes());
    config.extend(SIZE_MAX.to_le_bytes());
    config.extend(SEG_MAX.to_le_bytes());
    config.extend([0; 4]); // geometry
    config.extend((viv_disk::SECTOR as u32).to_le_bytes());
    // Topology: blocks are whole and aligned, the least transfer to be made is one, the best is not known.
    config.extend([sectors_in_block.checked_ilog2().unwrap_or(0) as u8, 0]);
    config.extend(u16::try_from(sectors_in_block).unwrap_or(u16::MAX).to_le_bytes());
    config.extend([0; 4]);
    config.extend([of.writeback.into(), 0]);
    config.extend(of.queues.to_le_bytes());
    config.extend(MAX_DISCARD.to_le_bytes());
    config.extend(MAX_DISCARD_RANGES.to_le_bytes());
    config.extend(1_u32.to_le_bytes()); // discards need no alignment
    config.extend(MAX_WRITE_ZEROES.to_le_bytes());
    config.extend(MAX_WRITE_ZEROES_RANGES.to_le_bytes());
    config.extend([1, 0, 0, 0]); // zeroing may give space back
    config
}
