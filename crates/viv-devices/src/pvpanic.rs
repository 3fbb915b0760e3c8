//! The port at which a guest says that its kernel has panicked (QEMU's docs/specs/pvpanic; ACPI device QEMU0001).
//!
//! Linux says so after it has written why to its consoles, and before it does what its command line tells it to do then.

use std::sync::Arc;

use bitflags::bitflags;

use crate::bus::PortRange;
use crate::device::{Device, DeviceError, PortIo, SavedState};
use crate::layout;
use crate::system::{SystemControl, SystemRequest};

const NAME: &str = "pvpanic0";
/// The saved state, version 1: there is nothing to keep.
const VERSION: u16 = 1;

bitflags! {
    /// What the register says when read: the events that can be told; and when written: those that happen.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Events: u8 {
        /// The kernel has panicked, and there is nothing more to come.
        const PANICKED = 1 << 0;
        /// The kernel has panicked, and hands over to another that saves what can be saved.
        const CRASH_LOADED = 1 << 1;
    }
}

/// Ends the machine of a guest that has panicked.
pub struct PvPanic {
    system: Arc<dyn SystemControl>,
}

impl PvPanic {
    /// Its port.
    pub const PORTS: [PortRange; 1] = [PortRange::new(layout::PANIC_PORT, 1)];

    /// The device.
    #[must_use]
    pub fn new(system: Arc<dyn SystemControl>) -> Self {
        Self { system }
    }
}

impl PortIo for PvPanic {
    fn read(&mut self, _port: u16, data: &mut [u8]) {
        data.fill(Events::all().bits());
    }

    fn write(&mut self, _port: u16, data: &[u8]) {
        let events = data.first().map_or(Events::empty(), |byte| Events::from_bits_truncate(*byte));
        if events.contains(Events::CRASH_LOADED) {
            tracing::info!("the guest's kernel has panicked and starts its crash kernel");
        } else if events.contains(Events::PANICKED) {
            self.system.request(SystemRequest::Panicked);
        }
    }
}

impl Device for PvPanic {
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
    fn a_panic_is_asked_to_end_the_machine_and_a_crash_kernel_is_let_work() {
        let requests = Arc::new(Requests::default());
        let mut device = PvPanic::new(requests.clone());
        assert_eq!(inb(&mut device, layout::PANIC_PORT), 3);
        for nothing in [0, 2, 3, 4, 0xfe] {
            outb(&mut device, layout::PANIC_PORT, nothing);
            assert_eq!(requests.take(), [], "{nothing:#x}");
        }
        outb(&mut device, layout::PANIC_PORT, 1);
        assert_eq!(requests.take(), [SystemRequest::Panicked]);
    }
}
