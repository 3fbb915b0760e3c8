//! A reply, put together.

use rustix::io::Errno;
use zerocopy::{Immutable, IntoBytes};

use super::abi::OutHeader;

/// A reply in the making: room for its head, and what was put behind.
#[derive(Debug)]
pub(crate) struct Reply<'a> {
    bytes: &'a mut Vec<u8>,
    /// The most bytes that the guest has room for, head included.
    room: usize,
}

impl<'a> Reply<'a> {
    /// An empty reply in `bytes`, of which the guest takes `room`. There is none without room for its head.
    pub(crate) fn new(bytes: &'a mut Vec<u8>, room: usize) -> Option<Self> {
        bytes.clear();
        bytes.extend_from_slice(OutHeader::default().as_bytes());
        (room >= bytes.len()).then_some(Self { bytes, room })
    }

    /// How many more bytes there is room for.
    pub(crate) fn room(&self) -> usize {
        self.room.saturating_sub(self.bytes.len())
    }

    /// Puts a structure behind what is there.
    pub(crate) fn put<T: IntoBytes + Immutable>(&mut self, value: &T) -> Result<(), Errno> {
        self.put_bytes(value.as_bytes())
    }

    /// Puts bytes behind what is there.
    pub(crate) fn put_bytes(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        if bytes.len() > self.room() {
            return Err(Errno::INVAL);
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Puts up to `length` bytes behind what is there, that `fill` writes; it says how many.
    pub(crate) fn put_with(
        &mut self,
        length: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, Errno>,
    ) -> Result<(), Errno> {
        let start = self.bytes.len();
        let length = length.min(self.room());
        self.bytes.resize(start.saturating_add(length), 0);
        let filled = fill(self.bytes.get_mut(start..).unwrap_or_default());
        self.bytes.truncate(start.saturating_add(*filled.as_ref().unwrap_or(&0)));
        filled.map(drop)
    }

    /// Writes the head, for success or an error, which nothing comes with.
    pub(crate) fn finish(self, unique: u64, result: Result<(), Errno>) {
        let error = match result {
            Ok(()) => 0,
            Err(errno) => {
                self.bytes.truncate(size_of::<OutHeader>());
                errno.raw_os_error().saturating_neg()
            }
        };
        let header = OutHeader { len: u32::try_from(self.bytes.len()).unwrap_or(u32::MAX), error, unique };
        if let Some(place) = self.bytes.get_mut(..size_of::<OutHeader>()) {
            place.copy_from_slice(header.as_bytes());
        }
    }
}
