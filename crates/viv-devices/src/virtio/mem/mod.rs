//! virtio-mem: memory that comes and goes while the guest runs (VIRTIO 1.3, 5.15).
//!
//! The device has a region of guest RAM that firmware and kernel are told nothing of. It is made of blocks of 2 MiB, none
//! of which is plugged at first. The host says how many bytes are to be plugged ([`Memory::set_requested`]), and the
//! driver plugs and unplugs blocks of its choice until that is so, or as far as the guest can spare them.
//!
//! A block is zero when it is plugged, and given back when it is unplugged ([`give_back`]). What a guest writes where
//! nothing is plugged it has broken the contract for, and is lost when the block is plugged. Devices and processors do
//! reach it, so the region's size is what a guest can take of the host at most.

mod regs;
mod state;
#[cfg(test)]
mod tests;

use std::ops::Range;

use viv_engine::GuestMemory;
use viv_engine::memory::give_back;

use super::chain::Chain;
use super::device::{Kind, QueueResources, QueueState, VirtioDevice};
use super::queue::{Outcome, RingError, Virtqueue};
use super::read_config_bytes;
use crate::{DeviceError, SavedState};
use regs::{Answer, REQUEST, State, request};
use state::MemoryState;

const NAME: &str = "virtio-mem";
const QUEUE_SIZE: u16 = 128;

/// Bytes of a block.
pub const BLOCK: u64 = 2 << 20;

/// `bytes` less what is no whole block.
const fn whole_blocks(bytes: u64) -> u64 {
    bytes & !(BLOCK.wrapping_sub(1))
}

/// Memory that comes and goes.
pub struct Memory {
    blocks: Blocks,
    queue: Option<Virtqueue>,
}

/// The region's blocks.
struct Blocks {
    memory: GuestMemory,
    state: MemoryState,
}

impl Memory {
    /// One whose blocks are those that lie wholly in `region` of `memory`, none of them plugged.
    #[must_use]
    pub fn new(memory: GuestMemory, region: Range<u64>) -> Self {
        let count = region.end.saturating_sub(region.start) / BLOCK;
        let plugged = vec![false; usize::try_from(count).unwrap_or(0)];
        let state = MemoryState { start: region.start, requested: 0, plugged };
        Self { blocks: Blocks { memory, state }, queue: None }
    }

    /// Wants so many bytes to be plugged, rounded down to blocks, as far as there are so many.
    pub fn set_requested(&mut self, bytes: u64) {
        let requested = whole_blocks(bytes.min(self.size()));
        if requested != self.blocks.state.requested {
            self.blocks.state.requested = requested;
            if let Some(queue) = &self.queue {
                queue.interrupt().config_changed();
            }
        }
    }

    /// How many bytes are to be plugged.
    #[must_use]
    pub fn requested(&self) -> u64 {
        self.blocks.state.requested
    }

    /// How many bytes are.
    #[must_use]
    pub fn plugged(&self) -> u64 {
        self.blocks.plugged()
    }

    /// How many bytes can be.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.blocks.size()
    }
}

impl Blocks {
    fn size(&self) -> u64 {
        (self.state.plugged.len() as u64).saturating_mul(BLOCK)
    }

    fn plugged(&self) -> u64 {
        let count = self.state.plugged.iter().filter(|plugged| **plugged).count() as u64;
        count.saturating_mul(BLOCK)
    }

    /// The indices of `count` blocks at an address; `None` if they are not all there, or none are meant.
    fn range(&self, address: u64, count: u16) -> Option<Range<usize>> {
        let offset = address.checked_sub(self.state.start).filter(|offset| offset.is_multiple_of(BLOCK))?;
        let first = usize::try_from(offset / BLOCK).ok()?;
        let end = first.checked_add(count.into())?;
        (count > 0 && end <= self.state.plugged.len()).then_some(first..end)
    }

    fn state(&self, blocks: &Range<usize>) -> State {
        let blocks = self.state.plugged.get(blocks.clone()).unwrap_or_default();
        match (blocks.contains(&true), blocks.contains(&false)) {
            (true, false) => State::Plugged,
            (true, true) => State::Mixed,
            (false, _) => State::Unplugged,
        }
    }

    /// Plugs or unplugs blocks, which are zero afterwards.
    fn set(&mut self, blocks: &Range<usize>, plugged: bool) {
        let address = |index: usize| {
            let offset = (index as u64).saturating_mul(BLOCK);
            self.state.start.saturating_add(offset)
        };
        let bytes = address(blocks.start)..address(blocks.end);
        if let Err(error) = give_back(&self.memory, bytes.clone()) {
            tracing::debug!(%error, "memory from {:#x} to {:#x} is not given back", bytes.start, bytes.end);
        }
        self.state.plugged.get_mut(blocks.clone()).unwrap_or_default().fill(plugged);
    }

    fn unplug_all(&mut self) {
        self.set(&(0..self.state.plugged.len()), false);
    }

    fn carry_out(&mut self, kind: u16, address: u64, count: u16) -> Answer {
        if kind == request::UNPLUG_ALL {
            self.unplug_all();
            return Answer::Ack;
        }
        let Some(blocks) = self.range(address, count) else { return Answer::Error };
        let size = u64::from(count).saturating_mul(BLOCK);
        match (kind, self.state(&blocks)) {
            (request::PLUG, State::Unplugged)
                if self.plugged().saturating_add(size) > self.state.requested =>
            {
                Answer::Nack
            }
            (request::PLUG, State::Unplugged) => {
                self.set(&blocks, true);
                Answer::Ack
            }
            (request::UNPLUG, State::Plugged) => {
                self.set(&blocks, false);
                Answer::Ack
            }
            (request::STATE, state) => Answer::State(state),
            _ => Answer::Error,
        }
    }

    /// Serves a request, after which others have their turn: it may be for many gigabytes.
    fn serve(&mut self, chain: &mut Chain) -> Result<Outcome, RingError> {
        let mut bytes = [0; REQUEST];
        let answer = if chain.readable.read(&mut bytes)? < REQUEST {
            Answer::Error
        } else {
            let [k0, k1, _, _, _, _, _, _, a0, a1, a2, a3, a4, a5, a6, a7, c0, c1, ..] = bytes;
            let address = u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]);
            self.carry_out(u16::from_le_bytes([k0, k1]), address, u16::from_le_bytes([c0, c1]))
        };
        let written = chain.writable.write(&answer.encode())?;
        Ok(Outcome::DoneForNow(u32::try_from(written).unwrap_or(u32::MAX)))
    }
}

impl VirtioDevice for Memory {
    fn kind(&self) -> Kind {
        Kind { id: 24, class: 0x05_80_00 }
    }

    fn features(&self) -> u64 {
        regs::UNPLUGGED_INACCESSIBLE
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let start = self.blocks.state.start;
        let config = regs::config(start, self.size(), self.plugged(), self.requested());
        read_config_bytes(&config, offset, data);
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
        let Self { blocks, queue: Some(queue) } = self else { return };
        queue.serve(|chain| blocks.serve(chain));
    }

    /// A driver that goes leaves blocks plugged for the next one (5.15.6.2).
    fn reset(&mut self) {}

    /// What the host wants stays; a guest that starts anew plugs it anew.
    fn reset_machine(&mut self) {
        self.blocks.unplug_all();
    }

    fn save(&self) -> Result<SavedState, DeviceError> {
        SavedState::encode(NAME, MemoryState::VERSION, &self.blocks.state)
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        let state: MemoryState = state.decode(MemoryState::VERSION)?;
        let mine = &self.blocks.state;
        if state.start != mine.start || state.plugged.len() != mine.plugged.len() {
            let reason = format!(
                "it had {} blocks at {:#x} and has {} at {:#x}",
                state.plugged.len(),
                state.start,
                mine.plugged.len(),
                mine.start
            );
            return Err(DeviceError::Invalid { name: NAME.to_owned(), reason });
        }
        let requested = whole_blocks(state.requested.min(self.size()));
        self.blocks.state = MemoryState { requested, ..state };
        Ok(())
    }
}
