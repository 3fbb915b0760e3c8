//! The generation identifier of a virtual machine: 128 bits that are others when the machine goes on from a state in which
//! it may have been before, so that guests make new keys and random numbers (Microsoft, "Virtual Machine Generation ID";
//! QEMU's docs/specs/vmgenid).
//!
//! It lies in a page that is no RAM, which the specification allows, so that firmware has no place to find for it. The
//! guest learns from ACPI where it is, and by a general-purpose event ([`layout::GENERATION_GPE`], which whoever renews it
//! raises) that it is another. Loading a saved state is not yet a reason: a guest that only moves stays the same.

use serde::{Deserialize, Serialize};

use crate::device::{Device, DeviceError, MemoryIo, SavedState};

const NAME: &str = "generation-id0";

/// The saved state, version 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct GenerationState {
    id: [u8; 16],
}

impl GenerationState {
    const VERSION: u16 = 1;
}

/// A page with an identifier at its start, and zeros.
pub struct GenerationId {
    id: [u8; 16],
}

impl GenerationId {
    /// One with this identifier, which is random.
    #[must_use]
    pub fn new(id: [u8; 16]) -> Self {
        Self { id }
    }

    /// Gives it another. The guest has to be told.
    pub fn renew(&mut self, id: [u8; 16]) {
        self.id = id;
    }
}

impl MemoryIo for GenerationId {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = self.id.iter().skip(start).chain(std::iter::repeat(&0));
        for (place, byte) in data.iter_mut().zip(rest) {
            *place = *byte;
        }
    }

    /// It is the host's to change.
    fn write(&mut self, _offset: u64, _data: &[u8]) {}
}

impl Device for GenerationId {
    fn name(&self) -> &str {
        NAME
    }

    fn memory_io(&mut self) -> Option<&mut dyn MemoryIo> {
        Some(self)
    }

    /// A guest that starts anew is the same machine.
    fn reset(&mut self) {}

    fn save(&self) -> Result<SavedState, DeviceError> {
        SavedState::encode(NAME, GenerationState::VERSION, &GenerationState { id: self.id })
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        let GenerationState { id } = state.decode(GenerationState::VERSION)?;
        self.id = id;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: [u8; 16] = *b"0123456789abcdef";

    fn read(device: &mut GenerationId, offset: u64, length: usize) -> Vec<u8> {
        let mut data = vec![0xff; length];
        MemoryIo::read(device, offset, &mut data);
        data
    }

    #[test]
    fn the_guest_reads_it_and_cannot_change_it() {
        let mut device = GenerationId::new(ID);
        device.write(0, &[0; 8]);
        assert_eq!([read(&mut device, 0, 8), read(&mut device, 8, 8)].concat(), ID);
        assert_eq!(read(&mut device, 14, 4), b"ef\0\0");
        assert_eq!(read(&mut device, u64::MAX, 8), [0; 8]);
    }

    #[test]
    fn it_stays_the_same_through_resets_and_moves_until_it_is_renewed() {
        let mut device = GenerationId::new(ID);
        device.reset();
        let saved = device.save().unwrap();
        let mut moved = GenerationId::new([0; 16]);
        moved.restore(&saved).unwrap();
        assert_eq!(read(&mut moved, 0, 16), ID);
        moved.renew([7; 16]);
        assert_eq!(read(&mut moved, 0, 16), [7; 16]);
    }
}
