//! Which clusters are in the overlay.

use std::collections::BTreeSet;

use super::layout::PAGE;

/// One bit per cluster, with the record of pages that changed since they were last written to the file.
/// Bit `n % 8` of byte `n / 8` is cluster `n`'s.
#[derive(Debug)]
pub(super) struct Bitmap {
    bytes: Vec<u8>,
    changed: BTreeSet<u64>,
}

impl Bitmap {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, changed: BTreeSet::new() }
    }

    pub(super) fn contains(&self, cluster: u64) -> bool {
        let (index, mask) = place(cluster);
        self.bytes.get(index).is_some_and(|byte| byte & mask != 0)
    }

    pub(super) fn insert(&mut self, cluster: u64) {
        let (index, mask) = place(cluster);
        if let Some(byte) = self.bytes.get_mut(index)
            && *byte & mask == 0
        {
            *byte |= mask;
            self.changed.insert(index as u64 / PAGE);
        }
    }

    /// The changed pages, each with its offset in the bitmap.
    pub(super) fn changed(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.changed.iter().filter_map(|page| {
            let start = page.checked_mul(PAGE)?;
            let begin = usize::try_from(start).ok()?;
            let end = begin.saturating_add(PAGE as usize).min(self.bytes.len());
            Some((start, self.bytes.get(begin..end)?))
        })
    }

    pub(super) fn is_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Says that the file has all of it.
    pub(super) fn written(&mut self) {
        self.changed.clear();
    }
}

fn place(cluster: u64) -> (usize, u8) {
    (usize::try_from(cluster / 8).unwrap_or(usize::MAX), 1 << (cluster % 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changed_pages_are_written() {
        let mut bitmap = Bitmap::new(vec![0; 3 * PAGE as usize]);
        let cluster = 2 * PAGE * 8 + 5;
        bitmap.insert(cluster);
        bitmap.insert(u64::MAX);
        assert!(bitmap.contains(cluster) && !bitmap.contains(cluster - 1) && !bitmap.contains(u64::MAX));
        let changed: Vec<_> = bitmap.changed().map(|(at, page)| (at, page[0], page.len())).collect();
        assert_eq!(changed, [(2 * PAGE, 1 << 5, PAGE as usize)]);
        bitmap.written();
        bitmap.insert(cluster);
        assert!(!bitmap.is_changed());
    }
}
