//! Disks, streams and flash whose content is a [`Store`], so that a copied machine has its own.

use std::io;
use std::sync::Arc;

use viv_disk::{Disk, DiskError};

use super::bench::Store;
use super::heard::Heard;
use crate::pflash::FlashStore;
use crate::testing::Random;
use crate::uart::CharBackend;
use crate::virtio::{Gone, Input, NetBackend, Offloads, PortBackend, Sent, VnetHeader, VsockStream};

/// A disk, or a chip of flash memory.
pub(super) struct Memory {
    pub(super) store: Store,
    pub(super) heard: Arc<Heard>,
    pub(super) read_only: bool,
}

impl Memory {
    /// Works on a range, which must lie within.
    fn with(&self, offset: u64, length: u64, work: impl FnOnce(&mut [u8])) -> Result<(), DiskError> {
        self.heard.count();
        let mut content = self.store.lock().unwrap();
        let size = content.len() as u64;
        if offset.checked_add(length).is_none_or(|end| end > size) {
            return Err(DiskError::OutOfRange { offset, length, size });
        }
        work(&mut content[offset as usize..(offset + length) as usize]);
        Ok(())
    }

    fn change(&self, offset: u64, length: u64, work: impl FnOnce(&mut [u8])) -> Result<(), DiskError> {
        assert!(!self.read_only, "a change of a disk that can only be read");
        self.with(offset, length, work)
    }
}

impl Disk for Memory {
    fn size(&self) -> u64 {
        self.store.lock().unwrap().len() as u64
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn read_at(&self, offset: u64, data: &mut [u8]) -> Result<(), DiskError> {
        self.with(offset, data.len() as u64, |content| data.copy_from_slice(content))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.change(offset, data.len() as u64, |content| content.copy_from_slice(data))
    }

    fn flush(&self) -> Result<(), DiskError> {
        self.heard.count();
        Ok(())
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.change(offset, length, |_| {})
    }

    fn write_zeroes(&self, offset: u64, length: u64, _may_unmap: bool) -> Result<(), DiskError> {
        self.change(offset, length, |content| content.fill(0))
    }
}

impl FlashStore for Memory {
    fn load(&mut self) -> io::Result<Vec<u8>> {
        Ok(self.store.lock().unwrap().clone())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(offset, data.len() as u64, |content| content.copy_from_slice(data))
            .map_err(io::Error::other)
    }
}

/// The far end of a stream, of many moods. The store has the state of their generator, 8 bytes.
pub(super) struct Moody {
    pub(super) store: Store,
    pub(super) heard: Arc<Heard>,
}

impl Moody {
    fn below(&self, limit: u64) -> u64 {
        let mut state = self.store.lock().unwrap();
        let mut random = Random(u64::from_le_bytes(state.as_slice().try_into().unwrap()));
        let number = random.below(limit);
        *state = random.0.to_le_bytes().to_vec();
        number
    }

    fn take(&self, data: &[u8]) -> usize {
        let taken = self.below(2 * data.len() as u64 + 1).min(data.len() as u64) as usize;
        self.heard.bytes(&data[..taken]);
        taken
    }
}

impl PortBackend for Moody {
    fn write(&mut self, data: &[u8]) -> usize {
        self.take(data)
    }

    fn read(&mut self, data: &mut [u8]) -> Input {
        self.heard.count();
        match self.below(20) {
            0 => Input::End,
            1..5 => Input::Nothing,
            // One that lies about how much it gave.
            5 => Input::Bytes(usize::MAX),
            _ => Input::Bytes(self.below(data.len() as u64) as usize + 1),
        }
    }

    fn set_guest_open(&mut self, open: bool) {
        self.heard.bytes(&[open.into()]);
    }
}

impl VsockStream for Moody {
    fn accepted(&mut self, host_port: u32) {
        self.heard.bytes(&host_port.to_le_bytes());
    }

    fn write(&mut self, data: &[u8]) -> Result<usize, Gone> {
        match self.below(12) {
            0 => Err(Gone),
            // One that lies about how much it took.
            1 => Ok(usize::MAX),
            _ => Ok(self.take(data)),
        }
    }

    fn read(&mut self, data: &mut [u8]) -> Input {
        PortBackend::read(self, data)
    }

    fn is_gone(&self) -> bool {
        self.below(8) == 0
    }

    fn end_output(&mut self) {
        self.heard.bytes(b"output");
    }

    fn end_input(&mut self) {
        self.heard.bytes(b"input");
    }
}

impl NetBackend for Moody {
    fn offloads(&self) -> Offloads {
        Offloads::all()
    }

    fn set_guest_offloads(&mut self, _offloads: Offloads) {}

    fn send(&mut self, header: &VnetHeader, frame: &[u8]) -> Sent {
        self.heard.count();
        if self.below(4) == 0 {
            return Sent::Full;
        }
        self.heard.bytes(&header.to_bytes(0));
        self.heard.bytes(frame);
        if self.below(2) == 0 { Sent::Done } else { Sent::Answered }
    }

    fn receive(&mut self, buffer: &mut Vec<u8>) -> Option<(VnetHeader, usize)> {
        self.heard.count();
        buffer.resize(3000, 0);
        let length = match self.below(16) {
            0..4 => return None,
            // One that lies about how much it gave.
            4 => usize::MAX,
            5 => buffer.len(),
            _ => self.below(3000) as usize,
        };
        let given = buffer.get_mut(..length).unwrap_or_default();
        given.fill(self.below(0x100) as u8);
        let [flags, gso_type] = [self.below(4) as u8, self.below(6) as u8];
        Some((VnetHeader { flags, gso_type, ..VnetHeader::default() }, length))
    }
}

impl CharBackend for Moody {
    fn transmit(&mut self, data: &[u8]) -> usize {
        self.take(data)
    }

    fn input_wanted(&mut self) {
        // It has to be told that there is input, whoever it is after a restore.
        self.heard.count();
    }
}
