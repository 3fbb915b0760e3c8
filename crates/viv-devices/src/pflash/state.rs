//! The saved state of a [`Pflash`](super::Pflash).

use serde::{Deserialize, Serialize};

/// Version 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PflashState {
    pub(super) content: Vec<u8>,
    pub(super) status: u8,
    pub(super) read_mode: ReadMode,
    pub(super) pending: Pending,
}

impl PflashState {
    pub(super) const VERSION: u16 = 1;
}

/// What reads give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ReadMode {
    Array,
    Status,
    Identifier,
    Query,
}

/// What the next write is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Pending {
    /// The first byte of a command.
    Command,
    /// The data to be programmed.
    Program,
    /// The confirmation of an erasure.
    Erase,
    /// What is to be done about locks, of which there are none.
    Lock,
    /// How many writes less one the buffer gets.
    BufferCount,
    /// Data for the buffer; then, with none left, the confirmation.
    Buffer {
        left: u16,
        /// The writes so far: offset and bytes. Those that follow one another are one.
        writes: Vec<(u64, Vec<u8>)>,
    },
}

impl Pending {
    /// Whether a guest can bring this about on a chip of `size` bytes.
    pub(super) fn is_possible(&self, size: usize) -> bool {
        let Self::Buffer { left, writes } = self else { return true };
        let inside = |&(offset, ref bytes): &(u64, Vec<u8>)| {
            let end = usize::try_from(offset).ok().and_then(|offset| offset.checked_add(bytes.len()));
            end.is_some_and(|end| end <= size)
        };
        *left <= 256 && writes.len() <= 256 && writes.iter().all(inside)
    }
}
