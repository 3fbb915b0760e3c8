//! What a guest says of its memory.

use serde::{Deserialize, Serialize};

use super::regs::{STATISTIC, tag};

/// What a guest says of its memory (VIRTIO 1.3, 5.5.6.4), as far as it says it. Amounts are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MemoryStatistics {
    /// All memory that the guest's kernel has.
    pub total: Option<u64>,
    /// Memory that nothing is in.
    pub free: Option<u64>,
    /// Memory that can be had without swapping: free, or of caches that can be dropped.
    pub available: Option<u64>,
    /// Memory of caches that can be dropped.
    pub caches: Option<u64>,
    /// Memory that was read from swap.
    pub swapped_in: Option<u64>,
    /// Memory that was written to swap.
    pub swapped_out: Option<u64>,
    /// How many page faults took a disk.
    pub major_faults: Option<u64>,
    /// How many did not.
    pub minor_faults: Option<u64>,
    /// How many huge pages were allocated.
    pub huge_pages_allocated: Option<u64>,
    /// How many could not be.
    pub huge_pages_failed: Option<u64>,
    /// How many processes were killed for want of memory.
    pub killed: Option<u64>,
}

impl MemoryStatistics {
    /// The most bytes that a guest's statistics take: more than there are tags.
    pub(super) const LENGTH: usize = STATISTIC * 32;

    /// Reads what a guest wrote. Tags that are not known are passed over; of one that comes twice the last counts.
    pub(super) fn decode(bytes: &[u8]) -> Self {
        let mut statistics = Self::default();
        for entry in bytes.chunks_exact(STATISTIC) {
            let &[t0, t1, ref value @ ..] = entry else { continue };
            let Ok(value) = <[u8; 8]>::try_from(value).map(u64::from_le_bytes) else { continue };
            let field = match u16::from_le_bytes([t0, t1]) {
                tag::SWAP_IN => &mut statistics.swapped_in,
                tag::SWAP_OUT => &mut statistics.swapped_out,
                tag::MAJFLT => &mut statistics.major_faults,
                tag::MINFLT => &mut statistics.minor_faults,
                tag::MEMFREE => &mut statistics.free,
                tag::MEMTOT => &mut statistics.total,
                tag::AVAIL => &mut statistics.available,
                tag::CACHES => &mut statistics.caches,
                tag::HTLB_PGALLOC => &mut statistics.huge_pages_allocated,
                tag::HTLB_PGFAIL => &mut statistics.huge_pages_failed,
                tag::OOM_KILL => &mut statistics.killed,
                _ => continue,
            };
            *field = Some(value);
        }
        statistics
    }
}
