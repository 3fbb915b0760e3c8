//! Parallel flash memory with Intel's command set, as firmware keeps its variables in it.
//!
//! Reads give the content until a command asks for something else. Programming clears bits and erasing a block
//! of 4 KiB sets them. Both take no time: the status says at once that they are done, or have failed, as when
//! the [`FlashStore`] cannot be written.
//!
//! Clearing the status leaves the chip reading its content with a status of 0, ready bit included, until the
//! next operation. OVMF knows by this zero, which QEMU's chip shows, that it has flash and not RAM or ROM.

mod regs;
mod state;
mod store;

use std::io;

use crate::device::{Device, DeviceError, MemoryIo, SavedState};

pub use store::{FileStore, FlashStore, MemoryStore};

use regs::{BLOCK, Status, command};
use state::{Pending, PflashState, ReadMode};

/// The largest chip, in bytes.
pub const MAX_SIZE: u64 = 64 << 20;

/// Why there can be no flash chip.
#[derive(Debug, thiserror::Error)]
pub enum FlashError {
    /// The content cannot be read.
    #[error("cannot read the content of flash chip {index}")]
    Load {
        /// The chip.
        index: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The content has a size that no chip has.
    #[error("flash chip {index} cannot have {size} bytes: give it a multiple of 4096, up to 64 MiB")]
    Size {
        /// The chip.
        index: u32,
        /// The size in bytes.
        size: usize,
    },
}

/// A flash chip.
pub struct Pflash {
    name: String,
    store: Box<dyn FlashStore>,
    content: Vec<u8>,
    status: Status,
    read_mode: ReadMode,
    pending: Pending,
}

impl Pflash {
    /// Flash chip `index`, with the content of `store`.
    ///
    /// # Errors
    /// When the content cannot be read, or its size is no chip's.
    pub fn new(index: u32, mut store: Box<dyn FlashStore>) -> Result<Self, FlashError> {
        let content = store.load().map_err(|source| FlashError::Load { index, source })?;
        let size = content.len();
        let fits = u64::try_from(size).is_ok_and(|size| (1..=MAX_SIZE).contains(&size));
        if !fits || !size.is_multiple_of(BLOCK) {
            return Err(FlashError::Size { index, size });
        }
        Ok(Self {
            name: format!("pflash{index}"),
            store,
            content,
            status: Status::READY,
            read_mode: ReadMode::Array,
            pending: Pending::Command,
        })
    }

    /// How many bytes of memory it takes.
    #[must_use]
    pub fn size(&self) -> u64 {
        u64::try_from(self.content.len()).unwrap_or(MAX_SIZE)
    }

    fn write_command(&mut self, value: u8) {
        match value {
            command::PROGRAM | command::PROGRAM_ALTERNATE => self.begin(Pending::Program),
            command::ERASE_BLOCK => self.begin(Pending::Erase),
            command::LOCK_SETUP => self.begin(Pending::Lock),
            command::WRITE_BUFFER => {
                // The buffer is free.
                self.status |= Status::READY;
                self.begin(Pending::BufferCount);
            }
            command::CLEAR_STATUS => {
                self.status = Status::empty();
                self.read_mode = ReadMode::Array;
            }
            command::READ_STATUS => self.read_mode = ReadMode::Status,
            command::READ_ID => self.read_mode = ReadMode::Identifier,
            command::READ_QUERY => self.read_mode = ReadMode::Query,
            command::READ_ARRAY => self.read_mode = ReadMode::Array,
            other => {
                tracing::debug!("{}: {other:#x} is no command", self.name);
                self.read_mode = ReadMode::Array;
            }
        }
    }

    /// The first byte of a command was written.
    fn begin(&mut self, pending: Pending) {
        self.pending = pending;
        self.read_mode = ReadMode::Status;
    }

    /// A command is at its end, with these failures.
    fn end(&mut self, failures: Status) {
        self.status |= Status::READY | failures;
    }

    /// Clears the bits that are zero in `data`.
    fn program(&mut self, offset: u64, data: &[u8]) -> Status {
        let Some(old) = slice(&mut self.content, offset, data.len()) else { return Status::PROGRAM_FAILED };
        let new: Vec<u8> = old.iter().zip(data).map(|(old, data)| old & data).collect();
        match self.store.write(offset, &new) {
            Ok(()) => {
                old.copy_from_slice(&new);
                Status::empty()
            }
            Err(error) => {
                tracing::warn!("cannot write to the store of {}: {error}", self.name);
                Status::PROGRAM_FAILED
            }
        }
    }

    /// Sets all bits of the block in which `offset` lies.
    fn erase(&mut self, offset: u64) -> Status {
        const ERASED: [u8; BLOCK] = [0xff; BLOCK];
        let start = offset & !(BLOCK as u64).wrapping_sub(1);
        let Some(block) = slice(&mut self.content, start, BLOCK) else { return Status::ERASE_FAILED };
        match self.store.write(start, &ERASED) {
            Ok(()) => {
                block.fill(0xff);
                Status::empty()
            }
            Err(error) => {
                tracing::warn!("cannot write to the store of {}: {error}", self.name);
                Status::ERASE_FAILED
            }
        }
    }

    fn program_buffer(&mut self, writes: &[(u64, Vec<u8>)]) -> Status {
        writes
            .iter()
            .map(|(offset, data)| self.program(*offset, data))
            .fold(Status::empty(), |failures, one| failures | one)
    }
}

/// `length` bytes of `content` from `offset` on.
fn slice(content: &mut [u8], offset: u64, length: usize) -> Option<&mut [u8]> {
    let start = usize::try_from(offset).ok()?;
    content.get_mut(start..start.checked_add(length)?)
}

/// Adds a write to those in the buffer.
fn gather(writes: &mut Vec<(u64, Vec<u8>)>, offset: u64, data: &[u8]) {
    let end = |(offset, bytes): &(u64, Vec<u8>)| {
        u64::try_from(bytes.len()).ok().and_then(|length| offset.checked_add(length))
    };
    match writes.last_mut() {
        Some(last) if end(last) == Some(offset) => last.1.extend_from_slice(data),
        _ => writes.push((offset, data.to_vec())),
    }
}

/// The chip is 8 bits wide: reads get each byte on its own. A write is one cycle whatever its size; commands are
/// in its lowest byte, and data is all of it.
impl MemoryIo for Pflash {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let size = self.content.len();
        if self.read_mode == ReadMode::Array {
            match slice(&mut self.content, offset, data.len()) {
                Some(bytes) => data.copy_from_slice(bytes),
                None => data.fill(0xff),
            }
            return;
        }
        for (byte, offset) in data.iter_mut().zip(offset..=u64::MAX) {
            *byte = match self.read_mode {
                ReadMode::Array | ReadMode::Status => self.status.bits(),
                ReadMode::Identifier => regs::identifier(offset),
                ReadMode::Query => regs::query(offset, size),
            };
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let Some(&value) = data.first() else { return };
        match std::mem::replace(&mut self.pending, Pending::Command) {
            Pending::Command => self.write_command(value),
            Pending::Program => {
                let failures = self.program(offset, data);
                self.end(failures);
            }
            Pending::Erase if value == command::CONFIRM => {
                let failures = self.erase(offset);
                self.end(failures);
            }
            Pending::Lock => self.end(Status::empty()),
            Pending::BufferCount => {
                let left = u16::from(value).saturating_add(1);
                self.pending = Pending::Buffer { left, writes: Vec::new() };
            }
            Pending::Buffer { left: 0, writes } if value == command::CONFIRM => {
                let failures = self.program_buffer(&writes);
                self.end(failures);
            }
            Pending::Erase | Pending::Buffer { left: 0, .. } => self.end(Status::BAD_SEQUENCE),
            Pending::Buffer { left, mut writes } => {
                gather(&mut writes, offset, data);
                self.pending = Pending::Buffer { left: left.saturating_sub(1), writes };
            }
        }
    }
}

impl Device for Pflash {
    fn name(&self) -> &str {
        &self.name
    }

    fn memory_io(&mut self) -> Option<&mut dyn MemoryIo> {
        Some(self)
    }

    /// The content outlives a reset.
    fn reset(&mut self) {
        self.status = Status::READY;
        self.read_mode = ReadMode::Array;
        self.pending = Pending::Command;
    }

    fn save(&self) -> Result<SavedState, DeviceError> {
        let state = PflashState {
            content: self.content.clone(),
            status: self.status.bits(),
            read_mode: self.read_mode,
            pending: self.pending.clone(),
        };
        SavedState::encode(&self.name, PflashState::VERSION, &state)
    }

    /// The store gets the saved content, if it has another.
    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        let state: PflashState = state.decode(PflashState::VERSION)?;
        let invalid = |reason| DeviceError::Invalid { name: self.name.clone(), reason };
        let (size, saved) = (self.content.len(), state.content.len());
        if saved != size {
            return Err(invalid(format!("it had {saved} bytes and has {size}")));
        }
        if !state.pending.is_possible(size) {
            return Err(invalid("its write buffer holds more than fits".to_owned()));
        }
        if state.content != self.content {
            let written = self.store.write(0, &state.content);
            written.map_err(|error| invalid(format!("its store cannot be written: {error}")))?;
        }
        self.content = state.content;
        self.status = Status::from_bits_truncate(state.status);
        self.read_mode = state.read_mode;
        self.pending = state.pending;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
