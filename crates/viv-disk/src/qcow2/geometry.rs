//! Where things lie, from the sizes that the header gives.

/// The sizes that do not change while an image is open.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    /// The version of the format, 2 or 3.
    pub(super) version: u32,
    /// A cluster has 2 to the power of this many bytes, 9 to 21.
    pub(super) cluster_bits: u32,
    /// A refcount has 2 to the power of this many bits, 0 to 6.
    pub(super) refcount_order: u32,
    /// Whether clusters are divided into 32 subclusters, whose state is in a second word of an L2 entry.
    pub(super) extended: bool,
}

impl Geometry {
    /// Bytes in a cluster.
    pub(super) fn cluster_size(self) -> u64 {
        1_u64.wrapping_shl(self.cluster_bits)
    }

    /// Bytes in a cluster, as a length.
    pub(super) fn cluster_len(self) -> usize {
        1_usize.wrapping_shl(self.cluster_bits)
    }

    /// Bytes in the smallest part of a cluster that has a state of its own.
    pub(super) fn unit_size(self) -> u64 {
        if self.extended { self.cluster_size() / 32 } else { self.cluster_size() }
    }

    /// Bytes in an L2 entry.
    pub(super) fn entry_len(self) -> usize {
        if self.extended { 16 } else { 8 }
    }

    fn l2_bits(self) -> u32 {
        self.cluster_bits.wrapping_sub(if self.extended { 4 } else { 3 })
    }

    /// Entries in an L2 table.
    pub(super) fn l2_entries(self) -> u64 {
        1_u64.wrapping_shl(self.l2_bits())
    }

    /// The cluster that `offset` lies in.
    pub(super) fn cluster_of(self, offset: u64) -> u64 {
        offset.wrapping_shr(self.cluster_bits)
    }

    /// Where a cluster begins; the largest offset if that is none.
    pub(super) fn offset_of(self, cluster: u64) -> u64 {
        cluster.saturating_mul(self.cluster_size())
    }

    /// How many clusters `bytes` take.
    pub(super) fn clusters_for(self, bytes: u64) -> u64 {
        self.cluster_of(bytes.saturating_add(self.cluster_size().wrapping_sub(1)))
    }

    /// Where in its cluster `offset` lies.
    pub(super) fn within(self, offset: u64) -> u64 {
        offset & self.cluster_size().wrapping_sub(1)
    }

    /// Which unit of its cluster `offset` lies in.
    pub(super) fn unit_of(self, offset: u64) -> u32 {
        if self.extended {
            // Less than 32.
            self.within(offset).wrapping_shr(self.cluster_bits.wrapping_sub(5)) as u32
        } else {
            0
        }
    }

    /// The L1 entry for a guest offset.
    pub(super) fn l1_index(self, offset: u64) -> u64 {
        self.cluster_of(offset).wrapping_shr(self.l2_bits())
    }

    /// The L2 entry for a guest offset.
    pub(super) fn l2_index(self, offset: u64) -> u64 {
        self.cluster_of(offset) & self.l2_entries().wrapping_sub(1)
    }

    /// L1 entries that a disk of `size` bytes needs.
    pub(super) fn l1_entries(self, size: u64) -> u64 {
        match size.checked_sub(1) {
            Some(last) => self.l1_index(last).saturating_add(1),
            None => 0,
        }
    }

    /// Refcounts in a refcount block.
    pub(super) fn per_block(self) -> u64 {
        self.cluster_size().wrapping_shl(3).wrapping_shr(self.refcount_order)
    }

    /// The refcount block that holds a cluster's refcount, and which one of it that is.
    pub(super) fn block_of(self, cluster: u64) -> (u64, u64) {
        let bits = self.cluster_bits.wrapping_add(3).wrapping_sub(self.refcount_order);
        (cluster.wrapping_shr(bits), cluster & self.per_block().wrapping_sub(1))
    }

    /// The largest refcount.
    pub(super) fn max_refcount(self) -> u64 {
        u64::MAX.wrapping_shr(64_u32.wrapping_sub(1_u32.wrapping_shl(self.refcount_order)))
    }

    /// The refcount at `index` of a block.
    pub(super) fn refcount(self, block: &[u8], index: u64) -> u64 {
        let bits = 1_u64.wrapping_shl(self.refcount_order);
        if bits >= 8 {
            let bytes = bits / 8;
            let at = crate::bytes::index(index.saturating_mul(bytes));
            let end = at.saturating_add(crate::bytes::index(bytes));
            return block
                .get(at..end)
                .unwrap_or_default()
                .iter()
                .fold(0, |value, byte| value.wrapping_shl(8) | u64::from(*byte));
        }
        let (at, shift) = narrow(index, bits);
        let byte = block.get(at).copied().unwrap_or(0);
        u64::from(byte.wrapping_shr(shift)) & self.max_refcount()
    }

    /// Changes the refcount at `index` of a block. `value` is not larger than the largest.
    pub(super) fn set_refcount(self, block: &mut [u8], index: u64, value: u64) {
        let bits = 1_u64.wrapping_shl(self.refcount_order);
        if bits >= 8 {
            let bytes = crate::bytes::index(bits / 8);
            let at = crate::bytes::index(index.saturating_mul(bits / 8));
            let all = value.to_be_bytes();
            crate::bytes::put(block, at, all.get(all.len().wrapping_sub(bytes)..).unwrap_or_default());
            return;
        }
        let (at, shift) = narrow(index, bits);
        if let Some(byte) = block.get_mut(at) {
            let mask = (self.max_refcount() as u8).wrapping_shl(shift);
            *byte = (*byte & !mask) | ((value as u8).wrapping_shl(shift) & mask);
        }
    }

    /// How many refcount blocks, and clusters of refcount table, describe `used` clusters and themselves.
    pub(super) fn plan_refcounts(self, used: u64) -> (u64, u64) {
        let (mut blocks, mut table) = (0_u64, 0_u64);
        loop {
            let all = used.saturating_add(blocks).saturating_add(table);
            let wanted = all.div_ceil(self.per_block()).max(1);
            if wanted == blocks {
                return (blocks, table);
            }
            blocks = wanted;
            table = self.clusters_for(blocks.saturating_mul(8));
        }
    }
}

/// The byte and the lowest bit of a refcount of less than 8 bits.
fn narrow(index: u64, bits: u64) -> (usize, u32) {
    let bit = index.saturating_mul(bits);
    (crate::bytes::index(bit / 8), (bit % 8) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refcounts_of_every_width_are_apart_from_their_neighbours() {
        for refcount_order in 0..=6 {
            let geometry = Geometry { version: 3, cluster_bits: 9, refcount_order, extended: false };
            let mut block = vec![0; 512];
            let max = geometry.max_refcount();
            for index in [0, 1, 2, 7, geometry.per_block() - 1] {
                geometry.set_refcount(&mut block, index, max);
                assert_eq!(geometry.refcount(&block, index), max);
                geometry.set_refcount(&mut block, index, 1);
                assert_eq!(geometry.refcount(&block, index), 1);
                assert_eq!(geometry.refcount(&block, index + 3), 0);
                geometry.set_refcount(&mut block, index, 0);
                assert!(block.iter().all(|&byte| byte == 0));
            }
        }
    }

    #[test]
    fn refcounts_describe_themselves() {
        for cluster_bits in [9, 12, 16, 21] {
            for refcount_order in [0, 4, 6] {
                let geometry = Geometry { version: 3, cluster_bits, refcount_order, extended: false };
                for used in [1, 2, 63, 64, 1000, 32767, 32768, 10_000_000] {
                    let (blocks, table) = geometry.plan_refcounts(used);
                    assert!(blocks * geometry.per_block() >= used + blocks + table);
                    assert!(table * geometry.cluster_size() >= blocks * 8);
                }
            }
        }
    }
}
