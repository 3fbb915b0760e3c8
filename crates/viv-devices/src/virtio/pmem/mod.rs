//! virtio-pmem: a file of the host's as memory that outlasts the guest (VIRTIO 1.3, 5.19).
//!
//! The guest reaches the file as memory, of which this device only says where it is. What it writes there is in the file at
//! once, as far as other processes of the host are concerned, and lasts once the guest has had it flushed.
//!
//! # Threads
//!
//! A flush waits for the host's disk, on the thread that serves the queue, which is this device's alone. One is served in a
//! turn, so that whoever wants the machine to stand still waits for one of them at most; the others wait in the ring. They end
//! in the order in which they came.

mod regs;
mod state;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::Range;

use super::chain::Chain;
use super::device::{Kind, QueueResources, QueueState, VirtioDevice};
use super::queue::{Outcome, RingError, Virtqueue};
use super::read_config_bytes;
use crate::{DeviceError, SavedState};
use regs::{DONE, FAILED, FLUSH, REQUEST};
use state::PmemState;

const NAME: &str = "virtio-pmem";
const QUEUE_SIZE: u16 = 64;

/// Makes what was written to the memory last.
pub type Flush = Box<dyn FnMut() -> io::Result<()> + Send>;

/// A file as memory.
pub struct Pmem {
    file: MappedFile,
    queue: Option<Virtqueue>,
}

/// The file, and where it is.
struct MappedFile {
    /// Its name, for messages.
    name: String,
    state: PmemState,
    /// `None`: the guest can only read it.
    flush: Option<Flush>,
}

impl Pmem {
    /// The file `name`, which lies at `place` in guest memory. Without `flush` the guest can only read it.
    #[must_use]
    pub fn new(name: String, place: Range<u64>, flush: Option<Flush>) -> Self {
        let size = place.end.saturating_sub(place.start);
        let state = PmemState { start: place.start, size, read_only: flush.is_none() };
        Self { file: MappedFile { name, state, flush }, queue: None }
    }
}

impl MappedFile {
    fn carry_out(&mut self, request: u32) -> u32 {
        match (request, &mut self.flush) {
            (FLUSH, None) => DONE,
            (FLUSH, Some(flush)) => match flush() {
                Ok(()) => DONE,
                Err(error) => {
                    tracing::warn!(%error, file = self.name, "what the guest wrote is not flushed");
                    FAILED
                }
            },
            _ => FAILED,
        }
    }

    /// Serves a request, after which others have their turn.
    fn serve(&mut self, chain: &mut Chain) -> Result<Outcome, RingError> {
        let mut request = [0; REQUEST];
        let answer = match chain.readable.read(&mut request)? {
            REQUEST => self.carry_out(u32::from_le_bytes(request)),
            _ => FAILED,
        };
        let written = chain.writable.write(&answer.to_le_bytes())?;
        Ok(Outcome::DoneForNow(u32::try_from(written).unwrap_or(u32::MAX)))
    }
}

impl VirtioDevice for Pmem {
    fn kind(&self) -> Kind {
        Kind { id: regs::ID, class: regs::CLASS }
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let PmemState { start, size, .. } = self.file.state;
        read_config_bytes(&regs::config(start, size), offset, data);
    }

    fn start_queue(
        &mut self,
        resources: QueueResources,
        features: u64,
        state: QueueState,
    ) -> Result<(), RingError> {
        self.queue = Some(Virtqueue::new(resources, features, state)?);
        Ok(())
    }

    fn stop_queue(&mut self, _index: u16) -> Option<QueueState> {
        Some(self.queue.take()?.state())
    }

    fn process_queue(&mut self, _index: u16) {
        let Self { file, queue: Some(queue) } = self else { return };
        queue.serve(|chain| file.serve(chain));
    }

    fn reset(&mut self) {}

    fn save(&self) -> Result<SavedState, DeviceError> {
        SavedState::encode(NAME, PmemState::VERSION, &self.file.state)
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        let state: PmemState = state.decode(PmemState::VERSION)?;
        let MappedFile { name, state: mine, .. } = &self.file;
        let invalid = |reason| Err(DeviceError::Invalid { name: NAME.to_owned(), reason });
        if state.size != mine.size {
            return invalid(format!("{name} had {} bytes and has {}", state.size, mine.size));
        }
        if state.start != mine.start {
            return invalid(format!("{name} was at {:#x} and is at {:#x}", state.start, mine.start));
        }
        if state.read_only != mine.read_only {
            return invalid(format!("{name} was writable and is not, or the other way round"));
        }
        Ok(())
    }
}
