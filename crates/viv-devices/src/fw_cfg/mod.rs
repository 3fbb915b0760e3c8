//! QEMU's firmware configuration device, `fw_cfg`: how firmware learns about its machine (QEMU,
//! docs/specs/fw_cfg).
//!
//! The guest selects an item by its key and reads it byte by byte from a port, or has any of it copied by DMA.
//! Files are items with a name, listed in a directory. Some are made when the guest first asks for them, as
//! the ACPI tables depend on what the firmware has programmed until then; some the guest writes, to tell the
//! machine where it has put something.

mod dma;
mod items;
mod regs;
mod state;

use viv_engine::GuestMemory;
use vm_memory::GuestAddress;

use crate::bus::PortRange;
use crate::device::{Device, DeviceError, PortIo, SavedState};
use crate::layout;
use crate::portio::read_bytes;

pub use items::{Content, FwCfgError, MAX_FILES, MAX_NAME, Make};
pub use regs::key;

use items::Items;
use state::FwCfgState;

const NAME: &str = "fw-cfg0";

/// The data port.
const DATA: u16 = layout::FW_CFG + 1;
/// The lower half of the DMA address register; writing it starts an operation.
const DMA_LOW: u16 = layout::FW_CFG_DMA + 4;

/// What every firmware asks about its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineFacts {
    /// The UUID, in the order of its digits.
    pub uuid: [u8; 16],
    /// Bytes of RAM.
    pub ram_size: u64,
    /// How many processors start.
    pub cpus: u16,
    /// How many processors there can be.
    pub max_cpus: u16,
    /// Whether there is a display.
    pub display: bool,
    /// Whether the firmware is to offer a boot menu.
    pub boot_menu: bool,
}

impl MachineFacts {
    fn items(&self) -> [(u16, Vec<u8>); 8] {
        let word = |value: u16| value.to_le_bytes().to_vec();
        [
            (key::SIGNATURE, b"QEMU".to_vec()),
            (key::ID, (regs::ID_PORTS | regs::ID_DMA).to_le_bytes().to_vec()),
            (key::UUID, self.uuid.to_vec()),
            (key::RAM_SIZE, self.ram_size.to_le_bytes().to_vec()),
            (key::NOGRAPHIC, word((!self.display).into())),
            (key::CPUS, word(self.cpus)),
            (key::BOOT_MENU, word(self.boot_menu.into())),
            (key::MAX_CPUS, word(self.max_cpus)),
        ]
    }
}

/// The firmware configuration device.
pub struct FwCfg {
    memory: GuestMemory,
    items: Items,
    selector: u16,
    offset: u32,
    /// The upper half of the DMA address.
    dma_high: u32,
}

impl FwCfg {
    /// Its ports.
    pub const PORTS: [PortRange; 2] =
        [PortRange::new(layout::FW_CFG, 2), PortRange::new(layout::FW_CFG_DMA, 8)];

    /// A device with the items that tell about the machine, and no files.
    #[must_use]
    pub fn new(memory: GuestMemory, facts: &MachineFacts) -> Self {
        Self { memory, items: Items::new(facts.items()), selector: 0, offset: 0, dma_high: 0 }
    }

    /// Adds an item that has no name, before the machine runs.
    ///
    /// # Errors
    /// When the key is taken or a file's, or the item too large.
    pub fn add_item(&mut self, key: u16, content: Content) -> Result<(), FwCfgError> {
        self.items.add(key, content)
    }

    /// Adds a file, before the machine runs. Files have keys in the order of their names.
    ///
    /// # Errors
    /// When there is one of this name, the name is none that a file can have, or the file is too large.
    pub fn add_file(&mut self, name: &str, content: Content) -> Result<(), FwCfgError> {
        self.items.add_file(name, content)
    }

    /// The content of a file, such as the guest has written it; empty while it is yet to be made.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<&[u8]> {
        self.items.file(name)
    }

    fn select(&mut self, selector: u16) {
        self.selector = selector & !regs::SELECTOR_WRITE;
        self.offset = 0;
        self.items.select(self.selector);
    }

    /// What follows the offset in the selected item.
    fn rest(&self) -> &[u8] {
        let bytes = self.items.bytes(self.selector);
        usize::try_from(self.offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or(&[])
    }

    /// Moves the offset on, at most to the item's end.
    fn advance(&mut self, count: u32) {
        let rest = u32::try_from(self.rest().len()).unwrap_or(u32::MAX);
        self.offset = self.offset.saturating_add(count.min(rest));
    }

    fn read_data(&mut self) -> u8 {
        let byte = self.rest().first().copied().unwrap_or(0);
        self.advance(1);
        byte
    }
}

impl PortIo for FwCfg {
    fn read(&mut self, port: u16, data: &mut [u8]) {
        read_bytes(port, data, |port| match port {
            DATA => self.read_data(),
            layout::FW_CFG => 0,
            port => {
                let at = usize::from(port.saturating_sub(layout::FW_CFG_DMA));
                regs::DMA_SIGNATURE.get(at).copied().unwrap_or(0)
            }
        });
    }

    fn write(&mut self, port: u16, data: &[u8]) {
        match (port, data) {
            (layout::FW_CFG, &[low, high]) => self.select(u16::from_le_bytes([low, high])),
            (layout::FW_CFG_DMA, &[a, b, c, d]) => self.dma_high = u32::from_be_bytes([a, b, c, d]),
            (DMA_LOW, &[a, b, c, d]) => {
                let low = u32::from_be_bytes([a, b, c, d]);
                let address = u64::from(std::mem::take(&mut self.dma_high)) << 32 | u64::from(low);
                self.run_dma(GuestAddress(address));
            }
            // The data port is written by DMA alone.
            _ => {}
        }
    }
}

impl Device for FwCfg {
    fn name(&self) -> &str {
        NAME
    }

    fn port_io(&mut self) -> Option<&mut dyn PortIo> {
        Some(self)
    }

    fn reset(&mut self) {
        self.items.reset();
        self.selector = 0;
        self.offset = 0;
        self.dma_high = 0;
    }

    fn save(&self) -> Result<SavedState, DeviceError> {
        let state = FwCfgState {
            selector: self.selector,
            offset: self.offset,
            dma_high: self.dma_high,
            contents: self.items.current(),
        };
        SavedState::encode(NAME, FwCfgState::VERSION, &state)
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        let state: FwCfgState = state.decode(FwCfgState::VERSION)?;
        self.items.reset();
        for (key, bytes) in state.contents {
            let size = bytes.len();
            if !self.items.set_current(key, bytes) {
                let reason = format!("no item {key:#x} can hold {size} bytes");
                return Err(DeviceError::Invalid { name: NAME.to_owned(), reason });
            }
        }
        self.selector = state.selector;
        self.offset = state.offset;
        self.dma_high = state.dma_high;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
