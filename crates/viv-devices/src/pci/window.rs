//! Where BARs can be put.

use std::ops::Range;

/// A range of addresses from which BARs are given theirs, in ascending order.
#[derive(Debug, Clone)]
pub(super) struct Window {
    range: Range<u64>,
    next: u64,
}

impl Window {
    pub(super) fn new(range: Range<u64>) -> Self {
        Self { next: range.start, range }
    }

    /// Takes `size` bytes, a power of two, at a multiple of `size`.
    pub(super) fn take(&mut self, size: u64) -> Option<u64> {
        let address = self.next.checked_next_multiple_of(size)?;
        let end = address.checked_add(size)?;
        if end > self.range.end {
            return None;
        }
        self.next = end;
        Some(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_aligned_and_within() {
        let mut window = Window::new(0x1100..0x4000);
        assert_eq!(window.take(0x1000), Some(0x2000));
        assert_eq!(window.take(0x10), Some(0x3000));
        assert_eq!(window.take(0x1000), None);
        assert_eq!(window.take(0x800), Some(0x3800));
        assert_eq!(Window::new(0..u64::MAX).take(0), None);
    }
}
