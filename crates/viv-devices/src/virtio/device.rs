//! What a virtio device is.

use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use viv_engine::GuestMemory;

use super::interrupt::Interrupt;
use super::lock;
use super::queue::RingError;
use super::regs::feature;
use crate::doorbell::{Doorbell, Serve};
use crate::{DeviceError, SavedState};

/// A device as the transport, the thread for devices and the machine share it.
pub type Shared<D> = Arc<Mutex<D>>;

/// A device with its queues behind its doorbell.
pub(super) struct Served(pub(super) Shared<dyn VirtioDevice>);

impl Serve for Served {
    fn serve(&self, index: u16) {
        lock(&self.0).process_queue(index);
    }
}

/// What a device says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// The device id (VIRTIO 1.3, 5).
    pub id: u16,
    /// The PCI class code that fits.
    pub class: u32,
}

/// What a queue needs to run.
pub struct QueueResources {
    /// Which queue of the device this is.
    pub index: u16,
    /// How many descriptors it has, a power of two.
    pub size: u16,
    /// Where the descriptor table is in guest memory.
    pub descriptors: u64,
    /// Where the driver's part, the available ring, is.
    pub driver: u64,
    /// Where the device's part, the used ring, is.
    pub device: u64,
    /// Guest memory.
    pub memory: Arc<GuestMemory>,
    /// The way back to the driver.
    pub interrupt: Arc<Interrupt>,
    /// For work that has to wait for the next turn.
    pub doorbell: Arc<Doorbell>,
}

/// How far a queue got. A new one is at 0 and 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueState {
    /// The next position in the available ring.
    pub next_available: u16,
    /// The next position in the used ring.
    pub next_used: u16,
}

/// A kind of virtio device. All calls come one at a time, under its lock.
pub trait VirtioDevice: Send {
    /// What it is.
    fn kind(&self) -> Kind;

    /// The features that it offers, besides those of rings and transport.
    fn features(&self) -> u64;

    /// The features of rings that it can do.
    fn ring_features(&self) -> u64 {
        feature::VERSION_1 | feature::RING_INDIRECT_DESC | feature::RING_EVENT_IDX
    }

    /// The greatest size of each of its queues, powers of two. There are at most 64, always as many.
    fn queue_sizes(&self) -> Vec<u16>;

    /// Reads its configuration space at `offset`; what lies past its end reads as zeroes.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes its configuration space. Most cannot be written.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// Lets a queue run that does not, with the negotiated `features`, from where `state` says. The queue's doorbell
    /// is rung after it, so there is no need to look at the ring.
    fn start_queue(
        &mut self,
        resources: QueueResources,
        features: u64,
        state: QueueState,
    ) -> Result<(), RingError>;

    /// Stops a queue and says how far it got; `None` if it did not run. Requests of it that are under way come to their
    /// end first and are given back, so this may wait for the host; the device holds none of them any longer.
    fn stop_queue(&mut self, index: u16) -> Option<QueueState>;

    /// Serves a queue: the driver rang, or the device asked for another turn. Nothing happens if it does
    /// not run.
    fn process_queue(&mut self, index: u16);

    /// Whether [`VirtioDevice::process_queue`] is so quick that it runs on the vCPU's thread.
    fn is_inline(&self) -> bool {
        false
    }

    /// Puts it in the state after power-on. Its queues are stopped before.
    fn reset(&mut self);

    /// The machine is reset, after [`VirtioDevice::reset`]: what outlives a driver goes too.
    fn reset_machine(&mut self) {}

    /// What it has of its own to save. The transport saves the queues.
    fn save(&self) -> Result<SavedState, DeviceError>;

    /// Takes over a saved state. Its queues are stopped before, and started after.
    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError>;
}
