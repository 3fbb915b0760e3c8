//! Bytes under way, first in, first out.

use std::io::IoSliceMut;
use std::os::fd::OwnedFd;

use rustix::io::{Errno, readv, retry_on_intr};

use crate::host;

/// The largest storage of a ring, in bytes.
pub(super) const MAX: usize = 512 << 10;
/// The smallest. Each ring can have it, however much others hold: who does not read stops nobody else.
const MIN: usize = 8 << 10;

/// How many bytes of storage all rings of one direction may have beyond the smallest of each.
#[derive(Debug)]
pub(super) struct Budget {
    left: usize,
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        Self { left: bytes }
    }

    /// How many bytes there are to be had.
    pub(super) fn left(&self) -> usize {
        self.left
    }
}

/// What storage takes of a budget.
fn cost(size: usize) -> usize {
    size.saturating_sub(MIN)
}

/// A queue of bytes whose storage grows as it is needed. It is given back by [`Ring::release`].
#[derive(Debug, Default)]
pub(super) struct Ring {
    /// Its length is a power of two, or 0.
    storage: Vec<u8>,
    start: usize,
    length: usize,
}

impl Ring {
    pub(super) fn len(&self) -> usize {
        self.length
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.storage.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// How many bytes could be added if there is budget.
    pub(super) fn room(&self) -> usize {
        MAX.saturating_sub(self.length)
    }

    fn mask(&self) -> usize {
        self.storage.len().saturating_sub(1)
    }

    /// Gets storage for `more` bytes more, or for as many as there is budget.
    fn grow(&mut self, more: usize, budget: &mut Budget) {
        let wanted = self.length.saturating_add(more).clamp(MIN, MAX).next_power_of_two();
        let mut size = wanted;
        let more = |size| cost(size).saturating_sub(cost(self.storage.len()));
        while size > self.storage.len() && more(size) > budget.left {
            size /= 2;
        }
        if size <= self.storage.len() {
            return;
        }
        budget.left = budget.left.saturating_sub(more(size));
        let mut storage = vec![0; size];
        let (first, second) = self.slices(0, self.length);
        let (to_first, rest) = storage.split_at_mut_checked(first.len()).unwrap_or_default();
        to_first.copy_from_slice(first);
        if let Some(to_second) = rest.get_mut(..second.len()) {
            to_second.copy_from_slice(second);
        }
        self.storage = storage;
        self.start = 0;
    }

    /// The two parts of `length` bytes from the `offset`th on.
    fn slices(&self, offset: usize, length: usize) -> (&[u8], &[u8]) {
        let length = length.min(self.length.saturating_sub(offset));
        let from = self.start.wrapping_add(offset) & self.mask();
        let first = length.min(self.storage.len().saturating_sub(from));
        let second = length.saturating_sub(first);
        (
            self.storage.get(from..).and_then(|rest| rest.get(..first)).unwrap_or_default(),
            self.storage.get(..second).unwrap_or_default(),
        )
    }

    /// The two parts of the free storage.
    fn free(&mut self) -> (&mut [u8], &mut [u8]) {
        let end = self.start.wrapping_add(self.length) & self.mask();
        let wraps = self.start.saturating_add(self.length) >= self.storage.len();
        let (low, high) = self.storage.split_at_mut_checked(end).unwrap_or_default();
        if wraps {
            let free = self.start.saturating_sub(end);
            (high.get_mut(..free).unwrap_or_default(), &mut [])
        } else {
            (high, low.get_mut(..self.start).unwrap_or_default())
        }
    }

    /// Adds bytes, as many as there is room for: how many that were.
    pub(super) fn push(&mut self, data: &[u8], budget: &mut Budget) -> usize {
        if data.len() > self.storage.len().saturating_sub(self.length) {
            self.grow(data.len(), budget);
        }
        let (first, second) = self.free();
        let one = data.len().min(first.len());
        let (head, rest) = data.split_at_checked(one).unwrap_or_default();
        let two = rest.len().min(second.len());
        for (to, from) in [(first, head), (second, rest.get(..two).unwrap_or_default())] {
            if let Some(to) = to.get_mut(..from.len()) {
                to.copy_from_slice(from);
            }
        }
        let added = one.saturating_add(two);
        self.length = self.length.saturating_add(added);
        added
    }

    /// Copies bytes from the `offset`th on.
    pub(super) fn copy(&self, offset: usize, to: &mut [u8]) {
        let (first, second) = self.slices(offset, to.len());
        let Some((one, rest)) = to.split_at_mut_checked(first.len()) else { return };
        one.copy_from_slice(first);
        if let Some(two) = rest.get_mut(..second.len()) {
            two.copy_from_slice(second);
        }
    }

    /// Drops the first bytes.
    pub(super) fn consume(&mut self, bytes: usize) {
        let bytes = bytes.min(self.length);
        self.start = self.start.wrapping_add(bytes) & self.mask();
        self.length = self.length.saturating_sub(bytes);
        if self.length == 0 {
            self.start = 0;
        }
    }

    /// Adds what a socket has, up to `limit` bytes or so: how many that were, 0 at the end of the stream, and whether they were
    /// all that it has now (epoll(7), Q9).
    pub(super) fn fill(
        &mut self,
        socket: &OwnedFd,
        limit: usize,
        budget: &mut Budget,
    ) -> Result<(usize, bool), Errno> {
        if limit > self.storage.len().saturating_sub(self.length) {
            self.grow(limit, budget);
        }
        let (first, second) = self.free();
        if first.is_empty() {
            return Err(Errno::NOBUFS);
        }
        let room = first.len().saturating_add(second.len());
        let read = if second.is_empty() {
            host::receive(socket, first)?
        } else {
            let mut parts = [IoSliceMut::new(first), IoSliceMut::new(second)];
            retry_on_intr(|| readv(socket, &mut parts))?
        };
        self.length = self.length.saturating_add(read).min(self.storage.len());
        Ok((read, read < room))
    }

    /// Gives bytes to a socket until there are none or it takes no more.
    pub(super) fn drain(&mut self, socket: &OwnedFd) -> Result<(), Errno> {
        while !self.is_empty() {
            let (first, _) = self.slices(0, self.length);
            let sent = host::send(socket, first)?;
            self.consume(sent);
        }
        Ok(())
    }

    /// Gives the storage back, if nothing is in it.
    pub(super) fn release(&mut self, budget: &mut Budget) {
        if self.length == 0 {
            budget.left = budget.left.saturating_add(cost(self.storage.len()));
            self.storage = Vec::new();
            self.start = 0;
        }
    }

    /// Drops everything and gives the storage back.
    pub(super) fn discard(&mut self, budget: &mut Budget) {
        self.length = 0;
        self.release(budget);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn a_ring_is_a_queue(steps in prop::collection::vec((0_usize..90_000, 0_usize..90_000), 1..60)) {
            let mut budget = Budget::new(300 << 10);
            let (mut ring, mut model) = (Ring::default(), VecDeque::new());
            let mut next = 0_u8;
            for (push, consume) in steps {
                let data: Vec<u8> = (0..push).map(|_| { next = next.wrapping_mul(31).wrapping_add(7); next }).collect();
                let added = ring.push(&data, &mut budget);
                prop_assert!(added == push || ring.len() == 256 << 10, "{} of {}", added, push);
                model.extend(&data[..added]);
                let consume = consume.min(ring.len());
                let mut out = vec![0; consume];
                ring.copy(0, &mut out);
                prop_assert_eq!(&out, &model.drain(..consume).collect::<Vec<_>>());
                ring.consume(consume);
                prop_assert_eq!(ring.len(), model.len());
                if ring.len() > 5 {
                    let mut one = [0];
                    ring.copy(5, &mut one);
                    prop_assert_eq!(one[0], model[5]);
                }
            }
            ring.discard(&mut budget);
            prop_assert_eq!(budget.left(), 300 << 10);
        }
    }

    #[test]
    fn rings_share_a_budget() {
        let mut budget = Budget::new(8 << 10);
        let (mut one, mut other) = (Ring::default(), Ring::default());
        assert_eq!(one.push(&[0; 64 << 10], &mut budget), 16 << 10);
        assert_eq!(budget.left(), 0);
        assert_eq!(other.push(&[0; 64 << 10], &mut budget), MIN, "each has so much");
        one.consume(16 << 10);
        one.release(&mut budget);
        assert_eq!(other.push(&[0; 64 << 10], &mut budget), 8 << 10);
        assert_eq!(budget.left(), 0);
        other.discard(&mut budget);
        assert_eq!(budget.left(), 8 << 10);
    }
}
