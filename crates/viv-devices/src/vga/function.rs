//! The display's PCI function.

use super::Display;
use super::core::{Core, MEMORY_SIZE};
use super::regs::{mmio, port};
use crate::pci::{Bar, BarKind, ConfigSpace, ConfigState, ExpansionRom, Identity, PciDevice, PciError};
use crate::{DeviceError, SavedState};

const NAME: &str = "vga-pci0";
/// The saved state is the configuration space: what is behind the BARs is [`VgaLegacy`](super::VgaLegacy)'s to save.
const VERSION: u16 = 1;

/// The vendor and device that drivers and firmware know the display by.
const IDS: (u16, u16) = (0x1234, 0x1111);
/// Video memory.
const MEMORY_BAR: usize = 0;
/// Registers.
const REGISTER_BAR: usize = 2;

/// A display on PCI.
pub struct VgaFunction {
    config: ConfigSpace,
    display: Display,
    rom: Option<ExpansionRom>,
}

impl VgaFunction {
    /// The function of this display. `rom` is the VGA BIOS, for firmware that wants one.
    ///
    /// # Errors
    /// When the ROM is for another function.
    pub fn new(display: &Display, rom: Option<ExpansionRom>) -> Result<Self, PciError> {
        let (vendor, device) = IDS;
        let mut config = ConfigSpace::new(Identity {
            vendor,
            device,
            // From 2 on, there are registers in a BAR.
            revision: 2,
            class: 0x03_00_00,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        });
        let memory = Bar { kind: BarKind::Prefetchable32, size: MEMORY_SIZE as u64 };
        let registers = Bar { kind: BarKind::Memory32, size: mmio::SIZE };
        let name = || NAME.to_owned();
        if !config.add_bar(MEMORY_BAR, memory) || !config.add_bar(REGISTER_BAR, registers) {
            return Err(PciError::Config { name: name(), what: "BARs" });
        }
        if let Some(rom) = &rom {
            let (vendor, device) = rom.made_for();
            if (vendor, device) != IDS {
                let reason = format!("it is for {vendor:04x}:{device:04x}, not {:04x}:{:04x}", IDS.0, IDS.1);
                return Err(PciError::Rom { name: name(), reason });
            }
            if !config.add_rom(rom.size()) {
                return Err(PciError::Config { name: name(), what: "expansion ROM" });
            }
        }
        Ok(Self { config, display: display.clone(), rom })
    }
}

impl PciDevice for VgaFunction {
    fn name(&self) -> &str {
        NAME
    }

    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn bar_read(&mut self, bar: usize, offset: u64, data: &mut [u8]) {
        let mut core = self.display.lock();
        match bar {
            MEMORY_BAR => core.read_linear(offset, data),
            _ => {
                for (byte, offset) in data.iter_mut().zip(offset..) {
                    *byte = core.read_mmio(offset);
                }
            }
        }
    }

    fn bar_write(&mut self, bar: usize, offset: u64, data: &[u8]) {
        let mut core = self.display.lock();
        match bar {
            MEMORY_BAR => core.write_linear(offset, data),
            _ => core.write_mmio(offset, data),
        }
    }

    fn rom_read(&mut self, offset: u64, data: &mut [u8]) {
        match &self.rom {
            Some(rom) => rom.read(offset, data),
            None => data.fill(0xff),
        }
    }

    fn reset(&mut self) {
        self.config.reset();
    }

    fn save(&self) -> Result<SavedState, DeviceError> {
        SavedState::encode(NAME, VERSION, &self.config.save())
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        let config: ConfigState = state.decode(VERSION)?;
        if self.config.restore(&config) {
            return Ok(());
        }
        let reason = "it is of another function".to_owned();
        Err(DeviceError::Invalid { name: NAME.to_owned(), reason })
    }
}

impl Core {
    /// Reads a byte of the registers' BAR. What is at none reads as zero, the place of the monitor's EDID included:
    /// drivers take that for a monitor that says nothing of itself.
    fn read_mmio(&mut self, offset: u64) -> u8 {
        let byte_of = |value: u32| {
            let byte = value.to_le_bytes().get((offset & 3) as usize).copied();
            byte.unwrap_or(0)
        };
        match offset & !3 {
            _ if mmio::PORTS.contains(&offset) => self.read_port(port_at(offset)),
            _ if mmio::DISPI.contains(&offset) => {
                let [low, high] = self.read_dispi(dispi_at(offset)).to_le_bytes();
                if offset & 1 == 0 { low } else { high }
            }
            // Itself and the register behind it.
            mmio::EXTENDED_SIZE => byte_of(8),
            mmio::BYTE_ORDER if self.dispi.big_endian => byte_of(mmio::BIG_ENDIAN),
            mmio::BYTE_ORDER => byte_of(mmio::LITTLE_ENDIAN),
            _ => 0,
        }
    }

    /// Writes to the registers' BAR. DISPI takes pairs of bytes, the byte order four.
    fn write_mmio(&mut self, offset: u64, data: &[u8]) {
        if mmio::PORTS.contains(&offset) {
            for (&byte, offset) in data.iter().zip(offset..mmio::PORTS.end) {
                self.write_port(port_at(offset), byte);
            }
        } else if mmio::DISPI.contains(&offset) && offset & 1 == 0 {
            let (pairs, _) = data.as_chunks();
            for (&pair, offset) in pairs.iter().zip((offset..mmio::DISPI.end).step_by(2)) {
                self.write_dispi(dispi_at(offset), u16::from_le_bytes(pair));
            }
        } else if let (mmio::BYTE_ORDER, Ok(value)) = (offset, <[u8; 4]>::try_from(data)) {
            match u32::from_le_bytes(value) {
                mmio::LITTLE_ENDIAN => self.dispi.big_endian = false,
                mmio::BIG_ENDIAN => self.dispi.big_endian = true,
                _ => {}
            }
        }
    }
}

fn port_at(offset: u64) -> u16 {
    port::ATTRIBUTE | (offset & 0x1f) as u16
}

/// The index of the register at an offset in DISPI's part.
fn dispi_at(offset: u64) -> u16 {
    (offset >> 1 & 0x0f) as u16
}
