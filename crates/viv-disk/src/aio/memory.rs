//! Where the data of a request lies in guest memory.

use std::sync::Arc;

use viv_engine::GuestMemory;
use viv_engine::memory::PageRecord;
use vm_memory::bitmap::{Bitmap, RefSlice};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError, VolatileSlice};

use crate::DiskError;

/// Pieces of guest memory, one after the other.
#[derive(Debug, Clone)]
pub struct Scatter {
    memory: Arc<GuestMemory>,
    parts: Vec<(GuestAddress, u32)>,
}

/// A piece of guest memory that lies in one place of this process's.
pub(crate) type Piece<'a> = VolatileSlice<'a, RefSlice<'a, PageRecord>>;

impl Scatter {
    /// These parts of `memory`: where each begins, and how many bytes it has.
    #[must_use]
    pub fn new(memory: Arc<GuestMemory>, parts: Vec<(GuestAddress, u32)>) -> Self {
        Self { memory, parts }
    }

    /// How many bytes they have together.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.parts.iter().map(|&(_, length)| u64::from(length)).fold(0, u64::saturating_add)
    }

    /// Them as this process has them. Fails where there is no memory.
    pub(crate) fn pieces(&self) -> Result<Vec<Piece<'_>>, DiskError> {
        let mut pieces = Vec::with_capacity(self.parts.len());
        for &(address, length) in &self.parts {
            for piece in self.memory.get_slices(address, length as usize) {
                pieces.push(piece.map_err(not_in_memory(address, length))?);
            }
        }
        Ok(pieces)
    }

    /// Takes note that somebody wrote to all of them past `vm-memory`.
    pub(crate) fn note_written(&self) {
        for piece in self.pieces().unwrap_or_default() {
            piece.bitmap().mark_dirty(0, piece.len());
        }
    }

    /// Goes over them in steps of at most `most` bytes, with where a step is and how many bytes were before it.
    pub(crate) fn steps(
        &self,
        most: usize,
        mut each: impl FnMut(Step<'_>, u64) -> Result<(), DiskError>,
    ) -> Result<(), DiskError> {
        let mut done = 0_u64;
        let mut step = Vec::new();
        let mut room = most;
        for &(mut address, mut length) in &self.parts {
            while length > 0 {
                let take = length.min(u32::try_from(room).unwrap_or(u32::MAX));
                step.push((address, take));
                room = room.saturating_sub(take as usize);
                address = GuestAddress(address.0.saturating_add(u64::from(take)));
                length = length.saturating_sub(take);
                if room == 0 {
                    each(Step { memory: &self.memory, parts: &step }, done)?;
                    done = done.saturating_add(most as u64);
                    step.clear();
                    room = most;
                }
            }
        }
        if step.is_empty() { Ok(()) } else { each(Step { memory: &self.memory, parts: &step }, done) }
    }
}

/// A few bytes of a [`Scatter`].
pub(crate) struct Step<'a> {
    memory: &'a GuestMemory,
    parts: &'a [(GuestAddress, u32)],
}

impl Step<'_> {
    pub(crate) fn length(&self) -> u64 {
        self.parts.iter().map(|&(_, length)| u64::from(length)).fold(0, u64::saturating_add)
    }

    /// Takes them out, into `data` of their length.
    pub(crate) fn read(&self, mut data: &mut [u8]) -> Result<(), DiskError> {
        for &(address, length) in self.parts {
            let Some((part, rest)) = data.split_at_mut_checked(length as usize) else { break };
            self.memory.read_slice(part, address).map_err(not_in_memory(address, length))?;
            data = rest;
        }
        Ok(())
    }

    /// Puts `data` of their length in.
    pub(crate) fn write(&self, mut data: &[u8]) -> Result<(), DiskError> {
        for &(address, length) in self.parts {
            let Some((part, rest)) = data.split_at_checked(length as usize) else { break };
            self.memory.write_slice(part, address).map_err(not_in_memory(address, length))?;
            data = rest;
        }
        Ok(())
    }
}

fn not_in_memory(address: GuestAddress, length: u32) -> impl FnOnce(GuestMemoryError) -> DiskError {
    move |_| DiskError::NotInMemory { address: address.0, length: length.into() }
}
