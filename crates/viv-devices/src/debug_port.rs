//! A port that takes text, for firmware and small test programs that have no driver for anything else: Bochs's
//! at 0xe9, and the one of SeaBIOS's and OVMF's logs at 0x402.

use crate::bus::PortRange;
use crate::device::{Device, DeviceError, PortIo, SavedState};

/// What reads give, by which a guest knows that the port is there.
const PRESENT: u8 = 0xe9;

/// Where the text goes. Called under the device's lock, on a vCPU's thread: it does not block.
pub type DebugSink = Box<dyn FnMut(&[u8]) + Send>;

/// A port that takes text.
pub struct DebugPort {
    name: String,
    sink: DebugSink,
}

/// The saved state, version 1: there is nothing to keep.
const VERSION: u16 = 1;

impl DebugPort {
    /// The port at `port`, which is [`layout::DEBUG_PORT`](crate::layout::DEBUG_PORT) or
    /// [`layout::FIRMWARE_LOG`](crate::layout::FIRMWARE_LOG).
    #[must_use]
    pub fn new(port: u16, sink: DebugSink) -> Self {
        Self { name: format!("debug-port-{port:x}"), sink }
    }

    /// Its ports.
    #[must_use]
    pub const fn ports(port: u16) -> [PortRange; 1] {
        [PortRange::new(port, 1)]
    }
}

impl PortIo for DebugPort {
    fn read(&mut self, _port: u16, data: &mut [u8]) {
        data.fill(PRESENT);
    }

    fn write(&mut self, _port: u16, data: &[u8]) {
        (self.sink)(data);
    }
}

impl Device for DebugPort {
    fn name(&self) -> &str {
        &self.name
    }

    fn port_io(&mut self) -> Option<&mut dyn PortIo> {
        Some(self)
    }

    fn reset(&mut self) {}

    fn save(&self) -> Result<SavedState, DeviceError> {
        SavedState::encode(&self.name, VERSION, &())
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        state.decode(VERSION)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::layout;
    use crate::testing::{inb, outb};

    #[test]
    fn text_goes_to_the_sink() {
        for port in [layout::DEBUG_PORT, layout::FIRMWARE_LOG] {
            let text = Arc::new(Mutex::new(Vec::new()));
            let sink = Arc::clone(&text);
            let mut device =
                DebugPort::new(port, Box::new(move |bytes| sink.lock().unwrap().extend_from_slice(bytes)));
            assert_eq!(inb(&mut device, port), 0xe9);
            for &byte in b"SeaBIOS" {
                outb(&mut device, port, byte);
            }
            assert_eq!(*text.lock().unwrap(), b"SeaBIOS");
        }
    }

    #[test]
    fn several_have_names_of_their_own() {
        let name = |port| DebugPort::new(port, Box::new(|_| {})).name().to_owned();
        assert_eq!(name(layout::DEBUG_PORT), "debug-port-e9");
        assert_eq!(name(layout::FIRMWARE_LOG), "debug-port-402");
    }
}
