//! virtio-blk: a disk (VIRTIO 1.3, 5.2).
//!
//! One queue; requests are carried out one after the other on the thread that serves devices, through a buffer of
//! bounded size. What a request may ask is in `request.rs`.

mod regs;
mod request;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use viv_disk::{Disk, SECTOR};

use super::device::{Kind, QueueResources, QueueState, VirtioDevice};
use super::queue::{RingError, Virtqueue};
use super::read_config_bytes;
use crate::{DeviceError, SavedState};
use request::Requests;

/// Bytes of a serial number, as GET_ID answers it.
pub(super) const SERIAL: usize = 20;
const QUEUE_SIZE: u16 = 256;

/// A virtio disk.
pub struct Block {
    requests: Requests,
    queue: Option<Virtqueue>,
}

#[derive(Serialize, Deserialize)]
struct BlockState {
    size: u64,
    read_only: bool,
}

const NAME: &str = "virtio-blk";
const VERSION: u16 = 1;

impl Block {
    /// A disk with the contents of `disk`. The guest sees the first 20 bytes of `serial`, in
    /// `/dev/disk/by-id/virtio-<serial>`.
    #[must_use]
    pub fn new(disk: Box<dyn Disk>, serial: &str) -> Self {
        let mut id = [0; SERIAL];
        for (byte, given) in id.iter_mut().zip(serial.bytes()) {
            *byte = given;
        }
        Self { requests: Requests::new(disk, id), queue: None }
    }

    /// Makes what the guest wrote outlive a crash of the host, for when the machine stops.
    ///
    /// # Errors
    /// When the disk cannot be flushed.
    pub fn flush(&mut self) -> Result<(), viv_disk::DiskError> {
        self.requests.disk().flush()
    }
}

impl VirtioDevice for Block {
    fn kind(&self) -> Kind {
        Kind { id: 2, class: 0x01_80_00 }
    }

    fn features(&self) -> u64 {
        let always =
            regs::feature::SIZE_MAX | regs::feature::SEG_MAX | regs::feature::BLK_SIZE | regs::feature::FLUSH;
        if self.requests.read_only() {
            always | regs::feature::RO
        } else {
            always | regs::feature::DISCARD | regs::feature::WRITE_ZEROES
        }
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&regs::config(self.requests.size() / SECTOR), offset, data);
    }

    fn start_queue(
        &mut self,
        resources: QueueResources,
        features: u64,
        state: QueueState,
    ) -> Result<(), RingError> {
        // A driver that cannot flush takes a finished write to be durable (5.2.6.2).
        self.requests.set_write_through(features & regs::feature::FLUSH == 0);
        self.queue = Some(Virtqueue::new(resources, features, state)?);
        Ok(())
    }

    fn stop_queue(&mut self, _index: u16) -> Option<QueueState> {
        Some(self.queue.take()?.state())
    }

    fn process_queue(&mut self, _index: u16) {
        let Self { requests, queue: Some(queue) } = self else { return };
        queue.serve(|chain| requests.carry_out(chain));
    }

    fn reset(&mut self) {}

    fn save(&self) -> Result<SavedState, DeviceError> {
        let state = BlockState { size: self.requests.size(), read_only: self.requests.read_only() };
        SavedState::encode(NAME, VERSION, &state)
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        let state: BlockState = state.decode(VERSION)?;
        let invalid = |reason| Err(DeviceError::Invalid { name: NAME.to_owned(), reason });
        if state.size != self.requests.size() {
            return invalid(format!("its disk had {} bytes and has {}", state.size, self.requests.size()));
        }
        if state.read_only != self.requests.read_only() {
            return invalid("its disk was writable and is not, or the other way round".to_owned());
        }
        Ok(())
    }
}
