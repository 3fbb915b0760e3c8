//! A reply, put together.

use rustix::io::Errno;
use zerocopy::{Immutable, IntoBytes};

use super::abi::OutHeader;

/// A reply in the making: room for its head, and what was put behind.
#[derive(Debug)]
pub(crate) struct Reply<'a> {
    /// All that the guest has room for.
    bytes: &'a mut [u8],
    /// How much of it is used, head included.
    length: usize,
}

impl<'a> Reply<'a> {
    /// An empty reply in `bytes`. There is none without room for its head.
    pub(crate) fn new(bytes: &'a mut [u8]) -> Option<Self> {
        let length = size_of::<OutHeader>();
        (bytes.len() >= length).then_some(Self { bytes, length })
    }

    /// How many more bytes there is room for.
    pub(crate) fn room(&self) -> usize {
        self.bytes.len().saturating_sub(self.length)
    }

    /// Puts a structure behind what is there.
    pub(crate) fn put<T: IntoBytes + Immutable>(&mut self, value: &T) -> Result<(), Errno> {
        self.put_bytes(value.as_bytes())
    }

    /// Puts bytes behind what is there.
    pub(crate) fn put_bytes(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        let end = self.length.saturating_add(bytes.len());
        self.bytes.get_mut(self.length..end).ok_or(Errno::INVAL)?.copy_from_slice(bytes);
        self.length = end;
        Ok(())
    }

    /// Puts up to `length` bytes behind what is there, that `fill` writes; it says how many.
    pub(crate) fn put_with(
        &mut self,
        length: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, Errno>,
    ) -> Result<(), Errno> {
        let length = length.min(self.room());
        let end = self.length.saturating_add(length);
        let filled = fill(self.bytes.get_mut(self.length..end).unwrap_or_default())?;
        self.length = self.length.saturating_add(filled.min(length));
        Ok(())
    }

    /// Writes the head, for success or an error, which nothing comes with. Returns the length of all.
    pub(crate) fn finish(self, unique: u64, result: Result<(), Errno>) -> usize {
        let (length, error) = match result {
            Ok(()) => (self.length, 0),
            Err(errno) => (size_of::<OutHeader>(), errno.raw_os_error().saturating_neg()),
        };
        let header = OutHeader { len: u32::try_from(length).unwrap_or(u32::MAX), error, unique };
        // There is room for it.
        let _ = header.write_to_prefix(self.bytes);
        length
    }
}
