//! The machine as its processors see it.

use std::sync::Arc;

use viv_devices::IoBus;
use viv_devices::irqchip::IrqChip;
use viv_engine::Platform;

/// Bus and interrupt controllers, behind the engine's trait.
pub(crate) struct Board {
    pub(crate) bus: Arc<IoBus>,
    pub(crate) irqchip: Arc<IrqChip>,
}

impl Platform for Board {
    fn port_read(&self, port: u16, data: &mut [u8]) {
        self.bus.port_read(port, data);
    }

    fn port_write(&self, port: u16, data: &[u8]) {
        self.bus.port_write(port, data);
    }

    fn memory_read(&self, address: u64, data: &mut [u8]) {
        self.bus.memory_read(address, data);
    }

    fn memory_write(&self, address: u64, data: &[u8]) {
        self.bus.memory_write(address, data);
    }

    fn acknowledge_extint(&self) -> Option<u8> {
        self.irqchip.acknowledge()
    }

    fn end_of_interrupt(&self, vector: u8) {
        self.irqchip.end_of_interrupt(vector);
    }
}
