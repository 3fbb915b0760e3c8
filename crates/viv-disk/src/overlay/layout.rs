//! Where things lie in an overlay file: the header page, the bitmap, the clusters at fixed offsets.

use crate::DiskError;
use crate::raw::RawDisk;
use crate::{Disk, SECTOR};

/// Bytes in a cluster, the unit of copy-on-write.
pub(super) const CLUSTER: u64 = 64 << 10;
/// Bytes in a page, the unit in which the bitmap is written.
pub(super) const PAGE: u64 = 4096;
/// Where the bitmap begins.
pub(super) const BITMAP: u64 = PAGE;

/// The part of a request that falls into one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// Which cluster.
    pub(super) cluster: u64,
    /// Where in the cluster it begins.
    pub(super) within: u64,
    /// Its length, 1 to [`CLUSTER`].
    pub(super) length: u64,
}

/// The layout that follows from a disk's size.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    size: u64,
    /// Bytes of bitmap, in whole pages.
    pub(super) bitmap_length: u64,
    data: u64,
}

impl Layout {
    /// The layout of an overlay on `base`.
    pub(super) fn for_base(base: &RawDisk) -> Result<Self, DiskError> {
        let too_large = || DiskError::TooLarge { path: base.file().path().to_owned(), length: base.size() };
        Self::new(base.size()).ok_or_else(too_large)
    }

    fn new(size: u64) -> Option<Self> {
        debug_assert!(size.is_multiple_of(SECTOR));
        let clusters = size.div_ceil(CLUSTER);
        let bitmap_length = clusters.div_ceil(8).checked_next_multiple_of(PAGE)?;
        let data = BITMAP.checked_add(bitmap_length)?.checked_next_multiple_of(CLUSTER)?;
        // Offsets in files are signed.
        i64::try_from(data.checked_add(size)?).ok()?;
        Some(Self { size, bitmap_length, data })
    }

    /// Where a cluster begins on the disk.
    pub(super) fn on_disk(cluster: u64) -> u64 {
        cluster.saturating_mul(CLUSTER)
    }

    /// Where a cluster begins in the overlay file.
    pub(super) fn in_file(&self, cluster: u64) -> u64 {
        self.data.saturating_add(Self::on_disk(cluster))
    }

    /// The length of a cluster: less than [`CLUSTER`] for the last, if the disk ends in it.
    pub(super) fn length_of(&self, cluster: u64) -> u64 {
        self.size.saturating_sub(Self::on_disk(cluster)).min(CLUSTER)
    }

    /// The length of the overlay file.
    pub(super) fn file_length(&self) -> u64 {
        self.data.saturating_add(self.size)
    }

    /// The parts of a range, cluster by cluster.
    pub(super) fn pieces(offset: u64, length: u64) -> impl Iterator<Item = Piece> {
        let end = offset.saturating_add(length);
        let mut at = offset;
        std::iter::from_fn(move || {
            let cluster = at.checked_div(CLUSTER)?;
            let within = at.saturating_sub(Self::on_disk(cluster));
            let length = end.saturating_sub(at).min(CLUSTER.saturating_sub(within));
            at = at.saturating_add(length);
            (length > 0).then_some(Piece { cluster, within, length })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_the_range_and_stay_in_their_clusters() {
        assert_eq!(Layout::pieces(100, 0).count(), 0);
        let pieces: Vec<_> = Layout::pieces(CLUSTER - 512, 2 * CLUSTER).collect();
        let expected = [(0, CLUSTER - 512, 512), (1, 0, CLUSTER), (2, 0, CLUSTER - 512)];
        assert_eq!(pieces, expected.map(|(cluster, within, length)| Piece { cluster, within, length }));
    }

    #[test]
    fn absurd_sizes_have_no_layout() {
        assert!(Layout::new(1 << 62).is_some());
        assert!(Layout::new((i64::MAX as u64) & !511).is_none());
    }
}
