//! A queue at work: requests come out of the ring in guest memory, and go back used.
//!
//! Positions and notifications are the `virtio-queue` crate's. It ends a chain silently where a descriptor is
//! bad, so whether a chain has an end, and a permissible shape, is checked here.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use viv_engine::GuestMemory;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError};

use super::chain::{Buffers, Chain};
use super::device::{QueueResources, QueueState};
use super::interrupt::Interrupt;
use super::regs::feature;
use crate::doorbell::Doorbell;

/// How many descriptors of a chain are followed. Linux makes chains longer than the queue when they lie in an
/// indirect table, but none as long as this.
pub const MAX_CHAIN: usize = 1024;

/// VIRTQ_AVAIL_F_NO_INTERRUPT (VIRTIO 1.3, 2.7.6).
const NO_INTERRUPT: u16 = 1;

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

/// A queue that runs.
pub struct Virtqueue {
    index: u16,
    queue: Queue,
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
        Ok(Self { index, queue, memory, interrupt, doorbell })
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
    pub fn serve(&mut self, handle: impl FnMut(&mut Chain) -> Result<Outcome, RingError>) {
        if self.interrupt.is_broken() {
            return;
        }
        let served = self.serve_turn(handle).and_then(|used| if used { self.notify() } else { Ok(()) });
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
        let mut given = ended.into_iter().map(|(head, written)| {
            self.queue.add_used(&*self.memory, head, written).map_err(ring("update", self.index))
        });
        let given = given.try_fold(false, |_, given| given.map(|()| true));
        let told = given.and_then(|given| if given { self.notify() } else { Ok(()) });
        self.check(told);
    }

    /// Returns whether anything was finished.
    fn serve_turn(
        &mut self,
        mut handle: impl FnMut(&mut Chain) -> Result<Outcome, RingError>,
    ) -> Result<bool, RingError> {
        let mut turns = self.queue.size();
        let mut used = false;
        loop {
            self.queue.disable_notification(&*self.memory).map_err(ring("update", self.index))?;
            while turns > 0
                && let Some(mut chain) = self.pop()?
            {
                turns = turns.saturating_sub(1);
                match handle(&mut chain)? {
                    Outcome::Done(written) => {
                        self.queue
                            .add_used(&*self.memory, chain.head, written)
                            .map_err(ring("update", self.index))?;
                        used = true;
                    }
                    // Notifications stay off: only what the request waits for helps.
                    Outcome::Later => {
                        self.queue.go_to_previous_position();
                        return Ok(used);
                    }
                    Outcome::Started => {}
                }
            }
            if turns == 0 {
                self.doorbell.ring(self.index);
                return Ok(used);
            }
            if !self.queue.enable_notification(&*self.memory).map_err(ring("update", self.index))? {
                return Ok(used);
            }
        }
    }

    /// Takes the next request.
    fn pop(&mut self) -> Result<Option<Chain>, RingError> {
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

    fn notify(&mut self) -> Result<(), RingError> {
        let mut wanted = self.queue.needs_notification(&*self.memory).map_err(ring("read", self.index))?;
        if !self.queue.event_idx_enabled() {
            let address = self.queue.avail_ring();
            let flags: u16 = self
                .memory
                .load(GuestAddress(address), Ordering::Relaxed)
                .map_err(|source| RingError::Memory { address, source })?;
            wanted = u16::from_le(flags) & NO_INTERRUPT == 0;
        }
        if wanted {
            self.interrupt.queue_used(self.index);
        }
        Ok(())
    }
}

fn ring(action: &'static str, index: u16) -> impl FnOnce(virtio_queue::Error) -> RingError {
    move |source| RingError::Ring { action, index, source }
}
