//! The display's ports, and its window in the first megabyte.

use std::ops::Range;

use super::Display;
use super::regs::dispi;
use super::state::VgaState;
use crate::bus::PortRange;
use crate::device::{Device, DeviceError, MemoryIo, PortIo, SavedState};
use crate::layout;
use crate::portio::{read_bytes, write_bytes};

const NAME: &str = "vga0";

/// Where a display has been since the first of its kind.
pub struct VgaLegacy {
    display: Display,
}

impl VgaLegacy {
    /// Its ports.
    pub const PORTS: [PortRange; 2] = [
        PortRange::new(layout::VGA.start, layout::VGA.end - layout::VGA.start),
        PortRange::new(layout::VGA_DISPI.start, layout::VGA_DISPI.end - layout::VGA_DISPI.start),
    ];
    /// Its addresses.
    pub const MEMORY: Range<u64> = layout::VGA_MEMORY;

    /// The way to this display.
    #[must_use]
    pub fn new(display: &Display) -> Self {
        Self { display: display.clone() }
    }
}

impl PortIo for VgaLegacy {
    fn read(&mut self, port: u16, data: &mut [u8]) {
        let mut core = self.display.lock();
        match (port, &mut *data) {
            (dispi::INDEX_PORT, [low, high]) => [*low, *high] = core.dispi.index.to_le_bytes(),
            (dispi::DATA_PORT | dispi::DATA_PORT_EVEN, [low, high]) => {
                [*low, *high] = core.read_dispi(core.dispi.index).to_le_bytes();
            }
            _ if layout::VGA_DISPI.contains(&port) => data.fill(0xff),
            _ => read_bytes(port, data, |port| core.read_port(port)),
        }
    }

    fn write(&mut self, port: u16, data: &[u8]) {
        let mut core = self.display.lock();
        match (port, data) {
            (dispi::INDEX_PORT, &[low, high]) => core.dispi.index = u16::from_le_bytes([low, high]),
            (dispi::DATA_PORT | dispi::DATA_PORT_EVEN, &[low, high]) => {
                let index = core.dispi.index;
                core.write_dispi(index, u16::from_le_bytes([low, high]));
            }
            _ if layout::VGA_DISPI.contains(&port) => {}
            _ => write_bytes(port, data, |port, value| core.write_port(port, value)),
        }
    }
}

impl MemoryIo for VgaLegacy {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let mut core = self.display.lock();
        for (byte, offset) in data.iter_mut().zip(offset..) {
            *byte = core.read_window(offset);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let mut core = self.display.lock();
        for (&byte, offset) in data.iter().zip(offset..) {
            core.write_window(offset, byte);
        }
    }
}

impl Device for VgaLegacy {
    fn name(&self) -> &str {
        NAME
    }

    fn port_io(&mut self) -> Option<&mut dyn PortIo> {
        Some(self)
    }

    fn memory_io(&mut self) -> Option<&mut dyn MemoryIo> {
        Some(self)
    }

    fn reset(&mut self) {
        self.display.lock().reset();
    }

    fn save(&self) -> Result<SavedState, DeviceError> {
        SavedState::encode(NAME, VgaState::VERSION, &self.display.lock().save())
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        let restored = self.display.lock().restore(state.decode(VgaState::VERSION)?);
        restored.map_err(|reason| DeviceError::Invalid { name: NAME.to_owned(), reason: reason.to_owned() })
    }
}
