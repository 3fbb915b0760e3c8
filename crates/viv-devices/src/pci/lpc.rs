//! The bridge to the ISA devices (Intel I/O Controller Hub 9, chapter 13: LPC interface).
//!
//! The devices behind it are wired to the machine's bus and need no word from it. What is here is what firmware asks
//! for: where ACPI's registers are (fixed), and which ISA interrupts PCI's are routed to.

use std::sync::Arc;

use super::config::{ConfigSpace, ConfigState, Identity};
use super::device::PciDevice;
use super::pirq::{PIRQS, Pirqs};
use crate::{DeviceError, SavedState, layout};

/// PMBASE, 32 bits: the ports of ACPI's registers. It cannot be moved.
const PMBASE: u8 = 0x40;
const PMBASE_IS_IO: u32 = 1;
/// ACPI_CNTL, 8 bits: bit 7 enables them. They always answer.
const ACPI_CNTL: u8 = 0x44;
/// PIRQ[n]_ROUT, 8 bits each, for A to D and for E to H: bit 7 set means none, bits 0 to 3 are the ISA interrupt.
const PIRQ_ROUT: [u8; 2] = [0x60, 0x68];
const PIRQ_ROUT_NONE: u8 = 0x80;
const PIRQ_ROUT_WRITABLE: [u8; 4] = [0x8f; 4];
/// GEN_PMCON_1 to 3, of which nothing has an effect.
const GEN_PMCON: u8 = 0xa0;
const GEN_PMCON_WRITABLE: [u8; 5] = [0xff, 0x07, 0x00, 0x00, 0x07];
/// RCBA, 32 bits: registers in memory, of which there are none.
const RCBA: u8 = 0xf0;
const RCBA_WRITABLE: u32 = 0xffff_c001;

const VERSION: u16 = 1;

/// The bridge.
pub struct Lpc {
    config: ConfigSpace,
    pirqs: Arc<Pirqs>,
}

impl Lpc {
    /// A bridge that routes `pirqs`.
    #[must_use]
    pub fn new(pirqs: Arc<Pirqs>) -> Self {
        let mut config = ConfigSpace::new(Identity {
            vendor: 0x8086,
            device: 0x2918,
            revision: 2,
            class: 0x06_01_00,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        });
        config.define(PMBASE, &(u32::from(layout::ACPI_PM.start) | PMBASE_IS_IO).to_le_bytes());
        config.allow(ACPI_CNTL, &[0x87]);
        for registers in PIRQ_ROUT {
            config.define(registers, &[PIRQ_ROUT_NONE; 4]);
            config.allow(registers, &PIRQ_ROUT_WRITABLE);
        }
        config.allow(GEN_PMCON, &GEN_PMCON_WRITABLE);
        config.allow(RCBA, &RCBA_WRITABLE.to_le_bytes());
        Self { config, pirqs }
    }

    fn route(&self) {
        let registers = PIRQ_ROUT.into_iter().flat_map(|first| first..first.saturating_add(4));
        for (pirq, register) in (0..PIRQS).zip(registers) {
            let [value, _] = self.config.u16_at(register).to_le_bytes();
            self.pirqs.route(pirq, (value & PIRQ_ROUT_NONE == 0).then_some(value & 0xf));
        }
    }
}

impl PciDevice for Lpc {
    fn name(&self) -> &str {
        "lpc"
    }

    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn config_write(&mut self, offset: u16, data: &[u8]) {
        self.config.write(offset, data);
        self.route();
    }

    fn bar_read(&mut self, _bar: usize, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn bar_write(&mut self, _bar: usize, _offset: u64, _data: &[u8]) {}

    fn reset(&mut self) {
        self.config.reset();
        self.route();
    }

    fn save(&self) -> Result<SavedState, DeviceError> {
        SavedState::encode(self.name(), VERSION, &self.config.save())
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        let config: ConfigState = state.decode(VERSION)?;
        if !self.config.restore(&config) {
            let reason = "it is of another function".to_owned();
            return Err(DeviceError::Invalid { name: self.name().to_owned(), reason });
        }
        self.route();
        Ok(())
    }
}
