//! MSI with one message (PCI 3.0, 6.8.1).

use std::sync::Arc;

use viv_engine::{Msi, MsiTarget};

use super::config::ConfigSpace;
use super::regs::capability;

/// Message control: the function sends messages and leaves its INTx# alone.
const CONTROL_ENABLE: u16 = 1 << 0;
/// Message control: the address has 64 bits.
const CONTROL_64_BIT: u16 = 1 << 7;

/// Offsets within the capability.
const CONTROL: u8 = 2;
const ADDRESS_LOW: u8 = 4;
const ADDRESS_HIGH: u8 = 8;
const DATA: u8 = 12;

/// A function's MSI capability: one message, with a 64-bit address and no mask.
///
/// Its registers lie in the configuration space and are saved with it. The function says when they may have
/// changed, so that a message can be sent by a thread that does not hold the function.
pub struct MsiCapability {
    at: u8,
    control: u16,
    message: Msi,
    target: Arc<dyn MsiTarget>,
}

impl MsiCapability {
    /// Adds the capability to a configuration space. `None` if there is no room.
    #[must_use]
    pub fn add(config: &mut ConfigSpace, target: Arc<dyn MsiTarget>) -> Option<Self> {
        let [low, high] = CONTROL_64_BIT.to_le_bytes();
        let [enable, _] = CONTROL_ENABLE.to_le_bytes();
        let body = [low, high, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let writable = [enable, 0, 0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        let at = config.add_capability(capability::MSI, &body, &writable)?;
        Some(Self { at, control: 0, message: Msi { address: 0, data: 0 }, target })
    }

    /// Takes over what the guest has written into the configuration space.
    pub fn update(&mut self, config: &ConfigSpace) {
        let register = |offset: u8| self.at.saturating_add(offset);
        let low = u64::from(config.u32_at(register(ADDRESS_LOW)));
        let high = u64::from(config.u32_at(register(ADDRESS_HIGH)));
        let data = u32::from(config.u16_at(register(DATA)));
        let control = config.u16_at(register(CONTROL));
        self.message = Msi { address: low | (high << 32), data };
        self.control = control;
    }

    /// Whether the guest has switched it on.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.control & CONTROL_ENABLE != 0
    }

    /// Sends the message, if the guest has switched it on.
    pub fn send(&self) {
        if self.is_enabled() {
            self.target.send_msi(self.message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::Identity;
    use crate::testing::Processors;

    #[test]
    fn the_message_is_what_the_guest_wrote() {
        let identity =
            Identity { vendor: 1, device: 2, revision: 0, class: 0, subsystem_vendor: 0, subsystem: 0 };
        let mut config = ConfigSpace::new(identity);
        let sent = Arc::new(Processors::default());
        let mut msi = MsiCapability::add(&mut config, sent.clone()).unwrap();
        assert_eq!(config.u32_at(0x40), 0x0080_0005);
        config.write(0x44, &0xfee0_1003_u32.to_le_bytes());
        config.write(0x48, &1_u32.to_le_bytes());
        config.write(0x4c, &0xffff_4021_u32.to_le_bytes());
        msi.update(&config);
        msi.send();
        assert!(!msi.is_enabled() && sent.take().is_empty());

        config.write(0x42, &0xffff_u16.to_le_bytes());
        assert_eq!(config.u16_at(0x42), 0x0081, "one message, no more");
        msi.update(&config);
        msi.send();
        assert_eq!(sent.take(), [Msi { address: 0x1_fee0_1000, data: 0x4021 }]);

        config.reset();
        msi.update(&config);
        assert!(!msi.is_enabled());
    }
}
