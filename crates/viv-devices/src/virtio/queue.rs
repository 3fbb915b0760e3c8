//! A queue at work: requests come out of the ring in guest memory, and go back used.
//!
//! Positions and the asking for notifications are the `virtio-queue` crate's. It ends a chain silently where a
//! descriptor is bad, so whether a chain has an end, and a permissible shape, is checked here. It gives requests back one
//! at a time, so what is given back together, and whether the driver wants to hear of it, is done here too.

use std::num::Wrapping;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use viv_engine::GuestMemory;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError};

use super::chain::{Buffers, Chain};
use super::device::{QueueResources, QueueState};
use super::gather::{Filled, Gather};
use super::interrupt::Interrupt;
use super::regs::feature;
use crate::doorbell::Doorbell;

/// How many descriptors of a chain are followed. Linux makes chains longer than the queue when they lie in an
/// indirect table, but none as long as this.
pub const MAX_CHAIN: usize = 1024;

/// The driver's part of a ring (VIRTIO 1.3, 2.7.6).
mod available_ring {
    pub(super) const FLAGS: u64 = 0;
    /// A flag: the driver does not want to be told of what is given back.
    pub(super) const NO_INTERRUPT: u16 = 1;

    /// Where the driver says after which position it wants to be told.
    pub(super) fn used_event(size: u16) -> u64 {
        u64::from(size).saturating_mul(2).saturating_add(4)
    }
}

/// The device's part of a ring (VIRTIO 1.3, 2.7.8).
mod used_ring {
    pub(super) const INDEX: u64 = 2;
    pub(super) const ELEMENTS: u64 = 4;
    /// Bytes of an element: the first descriptor, the bytes written.
    pub(super) const ELEMENT: u64 = 8;
}

/// What is wrong with a ring. The driver has to reset the device.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The ring itself cannot be used.
    #[error("cannot {action} the ring of queue {index}")]
    Ring {
        /// What was being done.
        action: &'static str,
        /// The queue.
        index: u16,
        /// Why.
        #[source]
        source: virtio_queue::Error,
    },
    /// The rings do not lie in guest RAM.
    #[error("the ring of queue {index} does not lie in RAM")]
    NotInRam {
        /// The queue.
        index: u16,
    },
    /// A chain of descriptors is bad.
    #[error("the chain at descriptor {head} {reason}")]
    Chain {
        /// The first descriptor.
        head: u16,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A buffer cannot be reached.
    #[error("no access to the buffer at {address:#x}")]
    Memory {
        /// Where it is.
        address: u64,
        /// Why.
        #[source]
        source: GuestMemoryError,
    },
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is finished, with so many bytes written into its writable buffers.
    Done(u32),
    /// It cannot be finished now. It stays in the ring, and its buffers may be looked at again as if for the
    /// first time; more requests would not help.
    Later,
    /// It runs by itself now, and the device gives it back by [`Virtqueue::complete`].
    Started,
}

/// What became of a turn.
enum Step {
    /// So many requests were given back.
    Used(u16),
    /// None was, but there may be more to do.
    Passed,
    /// There are no more requests.
    Empty,
    /// What is waited for is not a request.
    Later,
}

/// A queue that runs.
pub struct Virtqueue {
    index: u16,
    queue: Queue,
    /// How many requests were given back since the driver was last told, or chose not to be.
    untold: Wrapping<u16>,
    memory: Arc<GuestMemory>,
    interrupt: Arc<Interrupt>,
    doorbell: Arc<Doorbell>,
}

impl Virtqueue {
    /// Sets a queue to work from where `state` says.
    ///
    /// # Errors
    /// When its rings are misaligned or do not lie in guest RAM.
    pub fn new(resources: QueueResources, features: u64, state: QueueState) -> Result<Self, RingError> {
        let QueueResources { index, size, memory, interrupt, doorbell, .. } = resources;
        let queue_state = virtio_queue::QueueState {
            max_size: size,
            next_avail: state.next_available,
            next_used: state.next_used,
            event_idx_enabled: features & feature::RING_EVENT_IDX != 0,
            size,
            ready: true,
            desc_table: resources.descriptors,
            avail_ring: resources.driver,
            used_ring: resources.device,
        };
        let queue = Queue::try_from(queue_state).map_err(ring("set up", index))?;
        if !queue.is_valid(&*memory) {
            return Err(RingError::NotInRam { index });
        }
        Ok(Self { index, queue, untold: Wrapping(0), memory, interrupt, doorbell })
    }

    /// How far it got.
    #[must_use]
    pub fn state(&self) -> QueueState {
        QueueState { next_available: self.queue.next_avail(), next_used: self.queue.next_used() }
    }

    /// The way back to the driver.
    #[must_use]
    pub fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// Asks for another turn.
    pub fn ring(&self) {
        self.doorbell.ring(self.index);
    }

    /// Gives the waiting requests to `handle`, in order, until there are no more, one is to wait, or it is another
    /// device's turn; then tells the driver. A bad ring, or an error of `handle`, breaks the device: none of its queues is
    /// served until it is reset.
    pub fn serve(&mut self, mut handle: impl FnMut(&mut Chain) -> Result<Outcome, RingError>) {
        self.run(|queue| {
            let Some(mut chain) = queue.pop()? else { return Ok(Step::Empty) };
            match handle(&mut chain)? {
                Outcome::Done(written) => queue.give_back(&[(chain.head, written)]),
                Outcome::Later => {
                    queue.take_again(1);
                    Ok(Step::Later)
                }
                Outcome::Started => Ok(Step::Passed),
            }
        });
    }

    /// Like [`Virtqueue::serve`], for things to be written of which one may take several requests. `handle` is called
    /// while there is a request.
    pub fn fill(&mut self, mut handle: impl FnMut(&mut Gather<'_>) -> Result<Filled, RingError>) {
        self.run(|queue| {
            let Some(first) = queue.pop()? else { return Ok(Step::Empty) };
            let mut gather = Gather::new(queue, first);
            let filled = handle(&mut gather)?;
            let taken = gather.taken();
            match filled {
                Filled::Done => queue.give_back(&taken),
                Filled::Later | Filled::NoRoom => {
                    queue.take_again(taken.len());
                    Ok(Step::Later)
                }
                Filled::Dropped => {
                    queue.take_again(taken.len());
                    Ok(Step::Passed)
                }
            }
        });
    }

    fn run(&mut self, step: impl FnMut(&mut Self) -> Result<Step, RingError>) {
        if self.interrupt.is_broken() {
            return;
        }
        let served = self.run_turns(step).and_then(|()| self.notify());
        self.check(served);
    }

    /// A bad ring breaks the device.
    fn check(&self, served: Result<(), RingError>) {
        if let Err(error) = served {
            tracing::debug!(
                queue = self.index,
                error = &error as &dyn std::error::Error,
                "virtio ring broken"
            );
            self.interrupt.needs_reset();
        }
    }

    /// Gives requests back that were [`Outcome::Started`]: the head of each, and how many bytes were written into its
    /// writable buffers. Then tells the driver.
    pub fn complete(&mut self, ended: impl IntoIterator<Item = (u16, u32)>) {
        if self.interrupt.is_broken() {
            return;
        }
        let ended: Vec<_> = ended.into_iter().collect();
        let told = self.give_back(&ended).and_then(|_| self.notify());
        self.check(told);
    }

    fn run_turns(
        &mut self,
        mut step: impl FnMut(&mut Self) -> Result<Step, RingError>,
    ) -> Result<(), RingError> {
        let mut turns = self.queue.size();
        loop {
            self.queue.disable_notification(&*self.memory).map_err(ring("update", self.index))?;
            while turns > 0 {
                match step(self)? {
                    Step::Used(count) => turns = turns.saturating_sub(count),
                    Step::Passed => turns = turns.saturating_sub(1),
                    Step::Empty => break,
                    // Notifications stay as they are: off, unless more requests would help.
                    Step::Later => return Ok(()),
                }
            }
            if turns == 0 {
                self.doorbell.ring(self.index);
                return Ok(());
            }
            if !self.asks_for_more()? {
                return Ok(());
            }
        }
    }

    /// Asks to be told of the next request. Returns whether there is one already.
    pub(super) fn asks_for_more(&mut self) -> Result<bool, RingError> {
        self.queue.enable_notification(&*self.memory).map_err(ring("update", self.index))
    }

    /// Asks for another turn.
    pub(super) fn come_again(&self) {
        self.doorbell.ring(self.index);
    }

    /// How many requests the ring holds at most.
    pub(super) fn size(&self) -> u16 {
        self.queue.size()
    }

    /// Puts back the `count` requests that were taken last, to be taken again.
    pub(super) fn take_again(&mut self, count: usize) {
        for _ in 0..count {
            self.queue.go_to_previous_position();
        }
    }

    /// Gives requests back, each with the number of bytes written into it, in such a way that the driver sees all of
    /// them or none.
    fn give_back(&mut self, used: &[(u16, u32)]) -> Result<Step, RingError> {
        let base = self.queue.used_ring();
        let store = |offset: u64, value: u32| {
            let address = base.saturating_add(offset);
            let stored = self.memory.write_obj(value.to_le(), GuestAddress(address));
            stored.map_err(|source| RingError::Memory { address, source })
        };
        let mut next = Wrapping(self.queue.next_used());
        for &(head, written) in used {
            let slot = u64::from(next.0.checked_rem(self.queue.size()).unwrap_or(0));
            let element = used_ring::ELEMENTS.saturating_add(slot.saturating_mul(used_ring::ELEMENT));
            store(element, head.into())?;
            store(element.saturating_add(4), written)?;
            next += 1;
        }
        let count = next - Wrapping(self.queue.next_used());
        self.untold += count;
        self.queue.set_next_used(next.0);
        let address = base.saturating_add(used_ring::INDEX);
        self.memory
            .store(next.0.to_le(), GuestAddress(address), Ordering::Release)
            .map_err(|source| RingError::Memory { address, source })?;
        Ok(Step::Used(count.0))
    }

    /// Takes the next request.
    pub(super) fn pop(&mut self) -> Result<Option<Chain>, RingError> {
        let index = self.index;
        let mut heads = self.queue.iter(&*self.memory).map_err(ring("read", index))?;
        let Some(descriptors) = heads.next() else { return Ok(None) };
        let head = descriptors.head_index();
        let bad = |reason| Err(RingError::Chain { head, reason });

        let (mut readable, mut writable) = (Vec::new(), Vec::new());
        let (mut ended, mut count) = (false, 0_usize);
        for descriptor in descriptors {
            count = count.saturating_add(1);
            if count > MAX_CHAIN {
                return bad("is too long");
            }
            ended = !descriptor.has_next();
            let part = (GuestAddress(descriptor.addr().0), descriptor.len());
            if part.1 == 0 {
                continue;
            }
            if !self.memory.check_range(part.0, part.1 as usize) {
                return bad("has a buffer outside RAM");
            }
            if descriptor.is_write_only() {
                writable.push(part);
            } else if writable.is_empty() {
                readable.push(part);
            } else {
                return bad("has a buffer to read after one to write");
            }
        }
        if !ended {
            return bad("has no end");
        }
        let buffers = |parts| Buffers::new(self.memory.clone(), parts);
        Ok(Some(Chain { head, readable: buffers(readable), writable: buffers(writable) }))
    }

    /// Tells the driver what was given back, if it wants to hear of it (VIRTIO 1.3, 2.7.7).
    fn notify(&mut self) -> Result<(), RingError> {
        let untold = std::mem::take(&mut self.untold);
        if untold.0 == 0 {
            return Ok(());
        }
        // What the driver asked for is read after it can see what was given back.
        fence(Ordering::SeqCst);
        let load = |offset: u64| {
            let address = self.queue.avail_ring().saturating_add(offset);
            let loaded: Result<u16, _> = self.memory.load(GuestAddress(address), Ordering::Relaxed);
            loaded.map(u16::from_le).map_err(|source| RingError::Memory { address, source })
        };
        let wanted = if self.queue.event_idx_enabled() {
            let event = Wrapping(load(available_ring::used_event(self.queue.size()))?);
            Wrapping(self.queue.next_used()) - event - Wrapping(1) < untold
        } else {
            load(available_ring::FLAGS)? & available_ring::NO_INTERRUPT == 0
        };
        if wanted {
            self.interrupt.queue_used(self.index);
        }
        Ok(())
    }
}

fn ring(action: &'static str, index: u16) -> impl FnOnce(virtio_queue::Error) -> RingError {
    move |source| RingError::Ring { action, index, source }
}
