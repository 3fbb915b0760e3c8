//! Several requests as one place to write to.

use super::chain::{Buffers, Chain};
use super::queue::{RingError, Virtqueue};

/// What became of something to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filled {
    /// It is written, and the requests that it took go back to the driver together.
    Done,
    /// There is nothing to be written now; more requests would not help.
    Later,
    /// The requests that there are have no room for it ([`Gather::more`] said so). They stay in the ring.
    NoRoom,
    /// It is not to be written at all. The requests stay in the ring for the next.
    Dropped,
}

/// The requests that one thing is written into, one after the other. There is at least one.
pub struct Gather<'a> {
    queue: &'a mut Virtqueue,
    /// Those that are full, each with the bytes written into it.
    full: Vec<(u16, u32)>,
    chain: Chain,
    written: u32,
}

impl<'a> Gather<'a> {
    pub(super) fn new(queue: &'a mut Virtqueue, chain: Chain) -> Self {
        Self { queue, full: Vec::new(), chain, written: 0 }
    }

    /// How many requests there are so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.full.len().saturating_add(1)
    }

    /// Puts aside the next `length` bytes of the last request, to be written later. Fewer if there is no more room.
    #[must_use]
    pub fn reserve(&mut self, length: u64) -> Buffers {
        let rest = self.chain.writable.split_off(length);
        let front = std::mem::replace(&mut self.chain.writable, rest);
        self.note(front.remaining());
        front
    }

    /// Writes `data` into the last request, or as much as there is room for. Returns how many bytes.
    pub fn write(&mut self, data: &[u8]) -> Result<usize, RingError> {
        let written = self.chain.writable.write(data)?;
        self.note(written as u64);
        Ok(written)
    }

    /// Takes one more request. False when there is none, in which case the driver has been asked to tell of the next, or
    /// when these are all that the ring can hold.
    pub fn more(&mut self) -> Result<bool, RingError> {
        if self.is_whole_ring() {
            return Ok(false);
        }
        let next = match self.queue.pop()? {
            None if self.queue.asks_for_more()? => self.queue.pop()?,
            next => next,
        };
        let Some(next) = next else { return Ok(false) };
        let full = std::mem::replace(&mut self.chain, next);
        self.full.push((full.head, std::mem::take(&mut self.written)));
        Ok(true)
    }

    /// Whether these are all requests that the ring can hold.
    #[must_use]
    pub fn is_whole_ring(&self) -> bool {
        self.count() >= usize::from(self.queue.size())
    }

    /// The requests, each with the bytes written into it.
    pub(super) fn taken(self) -> Vec<(u16, u32)> {
        let Self { mut full, chain, written, .. } = self;
        full.push((chain.head, written));
        full
    }

    fn note(&mut self, bytes: u64) {
        self.written = self.written.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
    }
}
