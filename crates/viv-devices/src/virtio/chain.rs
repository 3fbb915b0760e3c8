//! One request: a chain of descriptors, first those to be read, then those to be written.

use std::ops::Range;
use std::sync::Arc;

use viv_disk::aio::Scatter;
use viv_engine::GuestMemory;
use vm_memory::{Bytes, GuestAddress};

use super::queue::RingError;

/// A request taken from a queue. All its buffers lie in guest RAM.
#[derive(Debug)]
pub struct Chain {
    pub(super) head: u16,
    /// What the driver says.
    pub readable: Buffers,
    /// Where the answer goes.
    pub writable: Buffers,
}

/// A sequence of buffers in guest RAM, read or written from front to back.
#[derive(Debug)]
pub struct Buffers {
    memory: Arc<GuestMemory>,
    /// What is left, the next part last.
    parts: Vec<(GuestAddress, u32)>,
}

impl Buffers {
    /// `parts` from front to back, all within guest RAM and none empty.
    pub(super) fn new(memory: Arc<GuestMemory>, mut parts: Vec<(GuestAddress, u32)>) -> Self {
        parts.reverse();
        Self { memory, parts }
    }

    /// How many bytes are left; less than 2³².
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.parts.iter().map(|&(_, length)| u64::from(length)).sum()
    }

    /// The guest-physical addresses of what is left, from front to back.
    pub fn ranges(&self) -> impl Iterator<Item = Range<u64>> {
        self.parts.iter().rev().map(|&(address, length)| {
            // Parts lie within RAM, so none reaches the end of the address space.
            address.0..address.0.saturating_add(length.into())
        })
    }

    /// Takes `data.len()` bytes out, or what is left. Returns how many.
    pub fn read(&mut self, data: &mut [u8]) -> Result<usize, RingError> {
        self.transfer(data.len(), |memory, address, done, length| {
            let part = done.checked_add(length).and_then(|end| data.get_mut(done..end));
            memory.read_slice(part.unwrap_or_default(), address)
        })
    }

    /// Puts `data` in, or as much as there is room for. Returns how many bytes.
    pub fn write(&mut self, data: &[u8]) -> Result<usize, RingError> {
        self.transfer(data.len(), |memory, address, done, length| {
            let part = done.checked_add(length).and_then(|end| data.get(done..end));
            memory.write_slice(part.unwrap_or_default(), address)
        })
    }

    /// Passes over `count` bytes, or what is left.
    pub fn skip(&mut self, count: usize) -> Result<usize, RingError> {
        self.transfer(count, |_, _, _, _| Ok(()))
    }

    /// The memory that they are in.
    pub(super) fn memory(&self) -> Arc<GuestMemory> {
        self.memory.clone()
    }

    /// Takes all that is left.
    #[must_use]
    pub fn take(&mut self) -> Self {
        Self { memory: self.memory.clone(), parts: std::mem::take(&mut self.parts) }
    }

    /// What is left, as a disk takes it.
    #[must_use]
    pub fn into_scatter(mut self) -> Scatter {
        self.parts.reverse();
        Scatter::new(self.memory, self.parts)
    }

    /// Cuts off what lies past the next `count` bytes.
    #[must_use]
    pub fn split_off(&mut self, count: u64) -> Self {
        let mut front = Vec::new();
        let mut left = u32::try_from(count).unwrap_or(u32::MAX);
        while left > 0
            && let Some((address, length)) = self.parts.pop()
        {
            let take = length.min(left);
            left = left.saturating_sub(take);
            front.push((address, take));
            if take < length {
                self.parts.push(after(address, length, take));
            }
        }
        front.reverse();
        Self { memory: self.memory.clone(), parts: std::mem::replace(&mut self.parts, front) }
    }

    /// Goes over the next `count` bytes, part by part, with the number of bytes done and the part's length.
    fn transfer(
        &mut self,
        count: usize,
        mut each: impl FnMut(&GuestMemory, GuestAddress, usize, usize) -> vm_memory::GuestMemoryResult<()>,
    ) -> Result<usize, RingError> {
        let mut done = 0_usize;
        while done < count
            && let Some((address, length)) = self.parts.pop()
        {
            let take = length.min(u32::try_from(count.saturating_sub(done)).unwrap_or(u32::MAX));
            each(&self.memory, address, done, take as usize)
                .map_err(|source| RingError::Memory { address: address.0, source })?;
            done = done.saturating_add(take as usize);
            if take < length {
                self.parts.push(after(address, length, take));
            }
        }
        Ok(done)
    }
}

/// What is left of a part after `taken` bytes, fewer than it has.
fn after(address: GuestAddress, length: u32, taken: u32) -> (GuestAddress, u32) {
    // Parts lie within RAM, so neither reaches the end of the address space.
    (GuestAddress(address.0.saturating_add(u64::from(taken))), length.saturating_sub(taken))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfers_cross_parts() {
        let memory = Arc::new(viv_engine::memory::allocate(0x10000).unwrap());
        let parts = vec![(GuestAddress(0x1000), 3), (GuestAddress(0x3000), 1), (GuestAddress(0x2000), 4)];
        let buffers = || Buffers::new(memory.clone(), parts.clone());
        assert_eq!(buffers().write(b"abcdefghij").unwrap(), 8);
        let mut data = [0; 8];
        let mut all = buffers();
        assert_eq!((all.read(&mut data[..2]).unwrap(), all.read(&mut data[2..7]).unwrap()), (2, 5));
        assert_eq!(all.remaining(), 1);
        assert_eq!(all.read(&mut data[7..]).unwrap(), 1);
        assert_eq!(&data, b"abcdefgh");
        assert_eq!(all.read(&mut data).unwrap(), 0);

        let mut front = buffers();
        let mut back = front.split_off(5);
        assert_eq!((front.remaining(), back.remaining()), (5, 3));
        assert_eq!((front.skip(4).unwrap(), front.read(&mut data).unwrap(), data[0]), (4, 1, b'e'));
        assert_eq!((back.read(&mut data).unwrap(), &data[..3]), (3, &b"fgh"[..]));
        assert_eq!(buffers().split_off(8).remaining(), 0);
        assert_eq!(buffers().split_off(0).remaining(), 8);
        assert_eq!(buffers().ranges().collect::<Vec<_>>(), [0x1000..0x1003, 0x3000..0x3001, 0x2000..0x2004]);
    }
}
