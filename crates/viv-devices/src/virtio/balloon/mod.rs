//! virtio-balloon: memory that the guest does without (VIRTIO 1.3, 5.5).
//!
//! Memory comes back to the host in two ways. The host wants the balloon to be of some size, and the driver puts as many
//! pages into it; or the driver reports pages that are free, without being asked, and uses them again whenever it
//! likes. Either way the pages are given back ([`give_back`]) and read as zeros if the guest looks. A guest that fills
//! its free pages with something else than zeros says so (PAGE_POISON), and then what it reports stays as it is.
//!
//! A driver that takes pages out of the balloon need not ask: they are RAM like all other.
//!
//! # Statistics
//!
//! The driver keeps one buffer in a queue of its own. Its content is read when it comes; it goes back, by which the
//! driver is asked for new statistics, when the host wants to know ([`Balloon::ask_statistics`]). Until then it stays
//! in the ring.

mod regs;
mod state;
mod statistics;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use viv_engine::GuestMemory;
use viv_engine::memory::give_back;

use super::chain::{Buffers, Chain};
use super::device::{Kind, QueueResources, QueueState, VirtioDevice};
use super::queue::{Outcome, RingError, Virtqueue};
use super::read_config_bytes;
use crate::{DeviceError, SavedState};
use regs::{ACTUAL, CONFIG, PAGE_NUMBER, PAGE_SHIFT, POISON, Role, feature};
use state::BalloonState;

pub use statistics::MemoryStatistics;

const NAME: &str = "virtio-balloon";
const QUEUE_SIZE: u16 = 128;
/// How many pages of one request are given back. Linux puts 256 into one.
const MAX_PAGES: usize = 4096;
/// How many bytes are given back before others have their turn. Linux reports 64 MiB at a time at the most.
const TURN: u64 = 256 << 20;

/// A balloon.
#[derive(Default)]
pub struct Balloon {
    state: BalloonState,
    queues: [Option<Running>; Role::QUEUES as usize],
}

/// A queue at work.
struct Running {
    queue: Virtqueue,
    features: u64,
    memory: Arc<GuestMemory>,
}

impl Balloon {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the driver to bring the balloon to so many pages of 4 KiB.
    pub fn set_target(&mut self, pages: u32) {
        if self.state.target != pages {
            self.state.target = pages;
            if let Some(running) = self.queues.iter().flatten().next() {
                running.queue.interrupt().config_changed();
            }
        }
    }

    /// How many pages the balloon is to have.
    #[must_use]
    pub fn target(&self) -> u32 {
        self.state.target
    }

    /// How many pages it has, as the driver says.
    #[must_use]
    pub fn actual(&self) -> u32 {
        self.state.actual
    }

    /// What the driver said last of the guest's memory, if it said anything.
    #[must_use]
    pub fn statistics(&self) -> Option<MemoryStatistics> {
        self.state.statistics
    }

    /// Asks the driver for new statistics.
    pub fn ask_statistics(&mut self) {
        self.state.asked = true;
        for index in 0..Role::QUEUES {
            if self.role(index) == Some(Role::Statistics) {
                self.process_queue(index);
            }
        }
    }

    /// The role of a queue that runs.
    fn role(&self, index: u16) -> Option<Role> {
        let running = self.queues.get(usize::from(index))?.as_ref()?;
        Some(Role::of(index, running.features))
    }

    fn config(&self) -> [u8; CONFIG] {
        let BalloonState { target, actual, poison, .. } = self.state;
        let mut config = [0; CONFIG];
        // The third word is for hints of free pages, which are not offered.
        for (place, word) in config.chunks_exact_mut(4).zip([target, actual, 0, poison]) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        config
    }
}

/// Gives back the pages that go into the balloon.
fn inflate(chain: &mut Chain, memory: &GuestMemory) -> Result<Outcome, RingError> {
    let mut bytes = vec![0; MAX_PAGES.saturating_mul(PAGE_NUMBER)];
    let length = chain.readable.read(&mut bytes)?;
    let numbers = bytes.get(..length).unwrap_or_default().chunks_exact(PAGE_NUMBER);
    let mut pages: Vec<u32> =
        numbers.filter_map(|number| Some(u32::from_le_bytes(number.try_into().ok()?))).collect();
    // In any order, mostly the reverse of their addresses'.
    pages.sort_unstable();
    pages.dedup();
    for run in pages.chunk_by(|&page, &next| page.checked_add(1) == Some(next)) {
        if let (Some(&first), Some(&last)) = (run.first(), run.last()) {
            let end = u64::from(last).saturating_add(1);
            take(memory, u64::from(first) << PAGE_SHIFT..end << PAGE_SHIFT);
        }
    }
    Ok(Outcome::Done(0))
}

/// Gives back the pages that are reported as free.
fn report(free: &Buffers, memory: &GuestMemory) -> Outcome {
    free.ranges().for_each(|range| take(memory, range));
    if free.remaining() >= TURN { Outcome::DoneForNow(0) } else { Outcome::Done(0) }
}

/// Gives pages back. A host that does not take them leaves them to the guest, to whom it makes no difference.
fn take(memory: &GuestMemory, range: Range<u64>) {
    if let Err(error) = give_back(memory, range.clone()) {
        tracing::debug!(%error, "memory from {:#x} to {:#x} is not given back", range.start, range.end);
    }
}

impl BalloonState {
    /// Reads statistics, or asks for the next.
    fn hear(&mut self, chain: &mut Chain) -> Result<Outcome, RingError> {
        if self.heard && self.asked {
            (self.heard, self.asked) = (false, false);
            return Ok(Outcome::Done(0));
        }
        if !self.heard {
            let mut bytes = [0; MemoryStatistics::LENGTH];
            let length = chain.readable.read(&mut bytes)?;
            self.statistics = Some(MemoryStatistics::decode(bytes.get(..length).unwrap_or_default()));
            (self.heard, self.asked) = (true, false);
        }
        Ok(Outcome::Later)
    }
}

impl VirtioDevice for Balloon {
    fn kind(&self) -> Kind {
        Kind { id: 5, class: 0x05_80_00 }
    }

    fn features(&self) -> u64 {
        feature::STATS_VQ | feature::DEFLATE_ON_OOM | feature::PAGE_POISON | feature::PAGE_REPORTING
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; usize::from(Role::QUEUES)]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.config(), offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let mut config = self.config();
        let rest = usize::try_from(offset).ok().and_then(|at| config.get_mut(at..)).unwrap_or_default();
        for (place, &byte) in rest.iter_mut().zip(data) {
            *place = byte;
        }
        let word = |at: usize| {
            let bytes = config.get(at..).and_then(|rest| rest.first_chunk());
            u32::from_le_bytes(bytes.copied().unwrap_or_default())
        };
        (self.state.actual, self.state.poison) = (word(ACTUAL), word(POISON));
    }

    fn start_queue(
        &mut self,
        resources: QueueResources,
        features: u64,
        state: QueueState,
    ) -> Result<(), RingError> {
        let (index, memory) = (usize::from(resources.index), resources.memory.clone());
        let queue = Virtqueue::new(resources, features, state)?;
        if let Some(slot) = self.queues.get_mut(index) {
            *slot = Some(Running { queue, features, memory });
        }
        Ok(())
    }

    fn stop_queue(&mut self, index: u16) -> Option<QueueState> {
        Some(self.queues.get_mut(usize::from(index))?.take()?.queue.state())
    }

    fn process_queue(&mut self, index: u16) {
        let Self { state, queues } = self;
        let Some(Some(Running { queue, features, memory })) = queues.get_mut(usize::from(index)) else {
            return;
        };
        let is_poisoned = *features & feature::PAGE_POISON != 0 && state.poison != 0;
        queue.serve(|chain| match Role::of(index, *features) {
            Role::Inflate => inflate(chain, memory),
            Role::Statistics => state.hear(chain),
            Role::Reporting if !is_poisoned => Ok(report(&chain.writable, memory)),
            Role::Deflate | Role::Reporting => Ok(Outcome::Done(0)),
        });
    }

    /// What the host wants stays.
    fn reset(&mut self) {
        self.state = BalloonState { target: self.state.target, ..BalloonState::default() };
    }

    fn save(&self) -> Result<SavedState, DeviceError> {
        SavedState::encode(NAME, BalloonState::VERSION, &self.state)
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        self.state = state.decode(BalloonState::VERSION)?;
        Ok(())
    }
}
