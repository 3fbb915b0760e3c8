//! A port by which test programs end their machine with a status, as QEMU's `isa-debug-exit`. Machines have it
//! only when asked.

use std::sync::Arc;

use crate::bus::PortRange;
use crate::device::{Device, DeviceError, PortIo, SavedState};
use crate::layout;
use crate::system::{SystemControl, SystemRequest};

const NAME: &str = "exit-port0";
/// The saved state, version 1: there is nothing to keep.
const VERSION: u16 = 1;

/// Ends the machine when it is written to.
pub struct ExitPort {
    system: Arc<dyn SystemControl>,
}

impl ExitPort {
    /// Its ports.
    pub const PORTS: [PortRange; 1] = [PortRange::new(layout::EXIT_PORT, 4)];

    /// The port.
    #[must_use]
    pub fn new(system: Arc<dyn SystemControl>) -> Self {
        Self { system }
    }
}

impl PortIo for ExitPort {
    fn read(&mut self, _port: u16, data: &mut [u8]) {
        data.fill(0);
    }

    /// The status is never 0, so that it cannot be taken for a machine that was switched off.
    fn write(&mut self, _port: u16, data: &[u8]) {
        let Some(value) = data.first() else { return };
        self.system.request(SystemRequest::Exit(value << 1 | 1));
    }
}

impl Device for ExitPort {
    fn name(&self) -> &str {
        NAME
    }

    fn port_io(&mut self) -> Option<&mut dyn PortIo> {
        Some(self)
    }

    fn reset(&mut self) {}

    fn save(&self) -> Result<SavedState, DeviceError> {
        SavedState::encode(NAME, VERSION, &())
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        state.decode(VERSION)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Requests, inb, outb};

    #[test]
    fn what_is_written_makes_the_status() {
        let requests = Arc::new(Requests::default());
        let mut device = ExitPort::new(requests.clone());
        assert_eq!(inb(&mut device, layout::EXIT_PORT), 0);
        for (value, status) in [(0, 1), (0x10, 0x21), (0x7f, 0xff), (0x80, 1)] {
            outb(&mut device, layout::EXIT_PORT, value);
            assert_eq!(requests.take(), [SystemRequest::Exit(status)]);
        }
        device.write(layout::EXIT_PORT, &0x31_u32.to_le_bytes());
        assert_eq!(requests.take(), [SystemRequest::Exit(0x63)], "one request for an access of any size");
    }
}
