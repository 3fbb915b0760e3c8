//! The host bridge's own function (Intel 3 Series Express Chipset, 5.1: 82G33 MCH).
//!
//! Firmware for PCs knows few chipsets. This is the one with PCI Express that SeaBIOS and OVMF know, as far as they and
//! systems use it: PCIEXBAR moves the ECAM; PAM0 to PAM6 and SMRAM keep what is written and do nothing, because there is
//! RAM below 1 MiB wherever there is no display memory, and no system management mode.

use std::ops::Range;

use super::bus::Placing;
use super::config::{ConfigSpace, ConfigState, Identity};
use super::device::PciDevice;
use crate::{DeviceError, SavedState, layout};

/// PCIEXBAR, 64 bits: bit 0 enables, bits 1 and 2 give the size, those from 26 on the address.
const PCIEXBAR: u8 = 0x60;
const PCIEXBAR_ENABLE: u32 = 1 << 0;
const PCIEXBAR_WRITABLE: u64 = 0xf_fc00_0007;
/// PAM0 to PAM6, 8 bits each: what answers between 0xc0000 and 1 MiB.
const PAM0: u8 = 0x90;
const PAM_WRITABLE: [u8; 7] = [0x30, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33];
/// SMRAM and ESMRAMC, 8 bits each.
const SMRAM: u8 = 0x9d;
const SMRAM_INITIAL: [u8; 2] = [0x02, 0x38];
const SMRAM_WRITABLE: [u8; 2] = [0x70, 0x00];

const VERSION: u16 = 1;

/// The bridge, in slot 0.
pub(super) struct HostBridge {
    config: ConfigSpace,
}

impl HostBridge {
    /// A bridge whose ECAM is where `placing` says.
    pub(super) fn new(placing: Placing) -> Self {
        let mut config = ConfigSpace::new(Identity {
            vendor: 0x8086,
            device: 0x29c0,
            revision: 0,
            class: 0x06_00_00,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        });
        config.allow(PCIEXBAR, &PCIEXBAR_WRITABLE.to_le_bytes());
        if placing == Placing::Machine {
            let register = layout::PCI_ECAM_BASE | u64::from(PCIEXBAR_ENABLE);
            config.define(PCIEXBAR, &register.to_le_bytes());
        }
        config.allow(PAM0, &PAM_WRITABLE);
        config.define(SMRAM, &SMRAM_INITIAL);
        config.allow(SMRAM, &SMRAM_WRITABLE);
        Self { config }
    }
}

/// Where the ECAM is, by the bridge's configuration space: 4096 bytes for each function (PCIe 5.0, 7.2.2).
pub(super) fn ecam(bridge: &ConfigSpace) -> Option<Range<u64>> {
    let register = bridge.u32_at(PCIEXBAR);
    let size: u64 = match (register & PCIEXBAR_ENABLE != 0, (register >> 1) & 3) {
        (true, 0) => 256 << 20,
        (true, 1) => 128 << 20,
        (true, 2) => 64 << 20,
        _ => return None,
    };
    let high = bridge.u32_at(PCIEXBAR.saturating_add(4));
    let start = ((u64::from(high) << 32) | u64::from(register)) & !size.saturating_sub(1);
    Some(start..start.saturating_add(size))
}

impl PciDevice for HostBridge {
    fn name(&self) -> &str {
        "pci-host-bridge"
    }

    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn bar_read(&mut self, _bar: usize, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn bar_write(&mut self, _bar: usize, _offset: u64, _data: &[u8]) {}

    fn reset(&mut self) {
        self.config.reset();
    }

    fn save(&self) -> Result<SavedState, DeviceError> {
        SavedState::encode(self.name(), VERSION, &self.config.save())
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        let config: ConfigState = state.decode(VERSION)?;
        if self.config.restore(&config) {
            return Ok(());
        }
        let reason = "it is of another function".to_owned();
        Err(DeviceError::Invalid { name: self.name().to_owned(), reason })
    }
}
