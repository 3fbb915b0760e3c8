//! virtio-blk: a disk (VIRTIO 1.3, 5.2).
//!
//! Up to [`Block::MAX_QUEUES`] queues, whose requests run beside each other ([`viv_disk::aio`]): `request.rs` reads what
//! a chain asks, `running.rs` keeps what is under way, a [`Throttle`] says how much of that there may be.
//!
//! # Order
//!
//! None is promised, neither within a queue nor among them, except that a flush makes durable what was written by
//! requests that had been given back before it. Queues are served in the order in which they rang; one that has to wait
//! for the disk's limits goes to the end of the line.
//!
//! # Threads
//!
//! The disk's own thread waits for the doorbell and for [`Block::ended_fd`], and calls [`Block::process_ended`] for
//! that. [`VirtioDevice::stop_queue`] and [`Block::drain`] wait on their caller's thread for what is under way.

mod regs;
mod request;
mod running;
mod state;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use viv_disk::aio::Aio;
use viv_disk::{Disk, SECTOR};

use super::device::{Kind, QueueResources, QueueState, VirtioDevice};
use super::queue::{RingError, Virtqueue};
use super::read_config_bytes;
use super::throttle::Throttle;
use crate::{DeviceError, SavedState};
use regs::feature;
use request::Reader;
use running::{Halt, Running};
use state::{BlockState, NAME};

/// Bytes of a serial number, as GET_ID answers it.
pub(super) const SERIAL: usize = 20;
const QUEUE_SIZE: u16 = 256;

/// When what the guest wrote has to outlive a crash of the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// Once the guest has flushed, or as soon as it is written if the guest wants that.
    #[default]
    AsAsked,
    /// As soon as it is written.
    Always,
    /// Never: flushes do nothing.
    Never,
}

/// What a disk is to its guest.
pub struct BlockSettings {
    /// Of which the guest sees the first 20 bytes, in `/dev/disk/by-id/virtio-<serial>`.
    pub serial: String,
    /// The number of queues, from 1 to [`Block::MAX_QUEUES`].
    pub queues: u16,
    /// When what is written has to last.
    pub durability: Durability,
    /// How much it may be used.
    pub throttle: Option<Throttle>,
}

impl Default for BlockSettings {
    /// One queue and no limits.
    fn default() -> Self {
        Self { serial: String::new(), queues: 1, durability: Durability::default(), throttle: None }
    }
}

/// A virtio disk.
pub struct Block {
    running: Running,
    durability: Durability,
    physical_block: u32,
    /// What the driver wants; it can be written in the configuration space.
    writeback: bool,
    /// What the driver negotiated.
    features: u64,
    queues: Vec<Option<Virtqueue>>,
    /// The queues that rang and were not served to their ends, the next first.
    ringing: VecDeque<u16>,
}

impl Block {
    /// The most queues that a disk can have.
    pub const MAX_QUEUES: u16 = 16;

    /// A disk with the contents of `disk`, to which `aio` is the way.
    #[must_use]
    pub fn new(disk: &Arc<dyn Disk>, aio: Box<dyn Aio>, settings: BlockSettings) -> Self {
        let BlockSettings { serial, queues, durability, throttle } = settings;
        let mut id = [0; SERIAL];
        for (byte, given) in id.iter_mut().zip(serial.bytes()) {
            *byte = given;
        }
        let reader = Reader {
            size: disk.size(),
            read_only: disk.read_only(),
            serial: id,
            durable: durability == Durability::Always,
            flushes_nothing: durability == Durability::Never,
        };
        Self {
            running: Running::new(reader, aio, throttle),
            durability,
            physical_block: disk.physical_block(),
            writeback: durability != Durability::Always,
            features: 0,
            queues: (0..queues.clamp(1, Self::MAX_QUEUES)).map(|_| None).collect(),
            ringing: VecDeque::new(),
        }
    }

    /// Readable when [`Block::process_ended`] has something to do.
    ///
    /// # Errors
    /// When this process has too many descriptors.
    pub fn ended_fd(&self) -> io::Result<OwnedFd> {
        self.running.ended_fd().try_clone_to_owned()
    }

    /// Gives back what has come to its end, and goes on with what had to wait for that.
    pub fn process_ended(&mut self) {
        self.give_back();
        self.serve_ringing();
    }

    /// Goes on with what had to wait for the disk's limits.
    pub fn resume(&mut self) {
        self.serve_ringing();
    }

    /// Waits for all that is under way, and gives it back. What waits in the rings goes on waiting.
    pub fn drain(&mut self) {
        while self.running.count() > 0 {
            if let Err(error) = self.running.wait() {
                self.give_up(&error);
            }
            self.give_back();
        }
        // Their turn would have come with what is no longer under way.
        for &index in &self.ringing {
            self.queue(index).inspect(|queue| queue.ring());
        }
    }

    /// A driver that can neither flush nor choose takes a finished write to be durable (5.2.6.2).
    fn set_durable(&mut self) {
        let caches = if self.features & feature::CONFIG_WCE != 0 {
            self.writeback
        } else {
            self.features & feature::FLUSH != 0
        };
        self.running.reader.durable = match self.durability {
            Durability::AsAsked => !caches,
            Durability::Always => true,
            Durability::Never => false,
        };
    }

    fn queue(&self, index: u16) -> Option<&Virtqueue> {
        self.queues.get(usize::from(index))?.as_ref()
    }

    /// Serves the queues that rang, as far as disk and limits allow.
    fn serve_ringing(&mut self) {
        // A turn each. Who gets none because others took theirs again rings once more.
        for _ in 0..self.queues.len() {
            let Some(&index) = self.ringing.front() else { return };
            let halt = self.serve(index);
            match halt {
                None => drop(self.ringing.pop_front()),
                Some(Halt::Throttled) => return self.ringing.rotate_left(1),
                Some(Halt::Full) if self.running.is_full() => return,
                Some(Halt::Full) => {}
            }
        }
        if let Some(queue) = self.ringing.front().and_then(|&index| self.queue(index)) {
            queue.ring();
        }
    }

    fn serve(&mut self, index: u16) -> Option<Halt> {
        let queue = self.queues.get_mut(usize::from(index))?.as_mut()?;
        let mut halt = None;
        queue.serve(|chain| self.running.take(index, chain, &mut halt));
        if let Err(error) = self.running.submit() {
            self.give_up(&error);
        }
        self.give_back();
        halt
    }

    /// Gives back what has come to its end.
    fn give_back(&mut self) {
        let mut given = Vec::new();
        for ended in self.running.take_ended() {
            match ended {
                Ok(chain) => given.push(chain),
                Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "no status written"),
            }
        }
        if given.is_empty() {
            return;
        }
        for (index, queue) in (0..).zip(&mut self.queues) {
            if let Some(queue) = queue {
                let of_this = given.iter().filter(|&&(of, ..)| of == index);
                queue.complete(of_this.map(|&(_, head, written)| (head, written)));
            }
        }
    }

    /// The host takes no more requests, and may never tell of those that it has.
    fn give_up(&mut self, error: &io::Error) {
        tracing::error!(%error, "the disk's requests are lost");
        self.running.forget();
        self.queues.iter().flatten().for_each(|queue| queue.interrupt().needs_reset());
    }
}

impl VirtioDevice for Block {
    fn kind(&self) -> Kind {
        Kind { id: 2, class: 0x01_80_00 }
    }

    fn features(&self) -> u64 {
        let always = feature::SIZE_MAX
            | feature::SEG_MAX
            | feature::BLK_SIZE
            | feature::FLUSH
            | feature::TOPOLOGY
            | if self.queues.len() > 1 { feature::MQ } else { 0 };
        if self.running.reader.read_only {
            always | feature::RO
        } else {
            always | feature::CONFIG_WCE | feature::DISCARD | feature::WRITE_ZEROES
        }
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; self.queues.len()]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = regs::config(&regs::Config {
            capacity: self.running.reader.size / SECTOR,
            physical_block: self.physical_block,
            writeback: self.writeback,
            queues: u16::try_from(self.queues.len()).unwrap_or(Self::MAX_QUEUES),
        });
        read_config_bytes(&config, offset, data);
    }

    /// Only the choice between write-back and write-through can be written, where the host leaves it to the driver.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let (regs::WRITEBACK, &[value @ 0..=1], false) = (offset, data, self.running.reader.read_only) {
            self.writeback = value == 1 && self.durability != Durability::Always;
            self.set_durable();
        }
    }

    fn start_queue(
        &mut self,
        resources: QueueResources,
        features: u64,
        state: QueueState,
    ) -> Result<(), RingError> {
        self.features = features;
        self.set_durable();
        let index = usize::from(resources.index);
        if let Some(place) = self.queues.get_mut(index) {
            *place = Some(Virtqueue::new(resources, features, state)?);
        }
        Ok(())
    }

    fn stop_queue(&mut self, index: u16) -> Option<QueueState> {
        self.drain();
        self.ringing.retain(|&ringing| ringing != index);
        Some(self.queues.get_mut(usize::from(index))?.take()?.state())
    }

    fn process_queue(&mut self, index: u16) {
        if self.queue(index).is_some() && !self.ringing.contains(&index) {
            self.ringing.push_back(index);
        }
        self.serve_ringing();
    }

    /// What is used up of the limits stays so.
    fn reset(&mut self) {
        self.writeback = self.durability != Durability::Always;
        self.features = 0;
    }

    fn save(&self) -> Result<SavedState, DeviceError> {
        let Reader { size, read_only, .. } = self.running.reader;
        let paid = self.running.throttle.as_ref().map(Throttle::paid).unwrap_or_default();
        BlockState { size, read_only, writeback: self.writeback, paid }.encode()
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        let state = BlockState::decode(state)?;
        let invalid = |reason| Err(DeviceError::Invalid { name: NAME.to_owned(), reason });
        let Reader { size, read_only, .. } = self.running.reader;
        if state.size != size {
            return invalid(format!("its disk had {} bytes and has {size}", state.size));
        }
        if state.read_only != read_only {
            return invalid("its disk was writable and is not, or the other way round".to_owned());
        }
        self.writeback = state.writeback && self.durability != Durability::Always;
        if let Some(throttle) = &mut self.running.throttle {
            throttle.set_paid(state.paid);
        }
        Ok(())
    }
}
