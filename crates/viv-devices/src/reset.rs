//! The ports that reset: the reset control register at 0xcf9 (ICH9 data sheet, 13.7.5), and system control
//! port A at 0x92 (13.7.3).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::a20::A20Gate;
use crate::bus::PortRange;
use crate::device::{Device, DeviceError, PortIo, SavedState};
use crate::layout;
use crate::portio::{read_bytes, write_bytes};
use crate::system::{SystemControl, SystemRequest};

const NAME: &str = "reset0";

/// 0xcf9: going from 0 to 1, it resets. (Bits 1 and 3 say how; every way is the same here.)
const RESET_CPU: u8 = 1 << 2;
/// 0xcf9: the bits that read back.
const RESET_WRITABLE: u8 = 0x0e;
/// 0x92: going from 0 to 1, it resets.
const INIT_NOW: u8 = 1 << 0;
/// 0x92: the A20 gate.
const A20: u8 = 1 << 1;

/// The two ports.
pub struct ResetPorts {
    system: Arc<dyn SystemControl>,
    a20: Arc<A20Gate>,
    state: ResetPortsState,
}

/// The saved state, version 1.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct ResetPortsState {
    reset_control: u8,
    /// Of a port that works, without what the gate has.
    port_a: u8,
}

impl ResetPortsState {
    const VERSION: u16 = 1;
    const POWER_ON: Self = Self { reset_control: 0, port_a: 0 };
}

impl ResetPorts {
    /// Its ports.
    pub const PORTS: [PortRange; 2] =
        [PortRange::new(layout::RESET_PORT, 1), PortRange::new(layout::PORT_A, 1)];

    /// The ports after power-on.
    #[must_use]
    pub fn new(system: Arc<dyn SystemControl>, a20: Arc<A20Gate>) -> Self {
        Self { system, a20, state: ResetPortsState::POWER_ON }
    }

    /// What reads at 0x92.
    fn port_a(&self) -> u8 {
        self.state.port_a | if self.a20.is_open() { A20 } else { 0 }
    }

    fn write_port(&mut self, port: u16, value: u8) {
        let rises = match port {
            layout::RESET_PORT => {
                let rises = value & !self.state.reset_control & RESET_CPU;
                self.state.reset_control = value & RESET_WRITABLE;
                rises
            }
            layout::PORT_A => {
                let rises = value & !self.state.port_a & INIT_NOW;
                self.state.port_a = value & INIT_NOW;
                self.a20.set(value & A20 != 0);
                rises
            }
            _ => 0,
        };
        if rises != 0 {
            self.system.request(SystemRequest::Reset);
        }
    }
}

impl PortIo for ResetPorts {
    fn read(&mut self, port: u16, data: &mut [u8]) {
        read_bytes(port, data, |port| match port {
            layout::RESET_PORT => self.state.reset_control,
            layout::PORT_A => self.port_a(),
            _ => 0xff,
        });
    }

    fn write(&mut self, port: u16, data: &[u8]) {
        write_bytes(port, data, |port, value| self.write_port(port, value));
    }
}

impl Device for ResetPorts {
    fn name(&self) -> &str {
        NAME
    }

    fn port_io(&mut self) -> Option<&mut dyn PortIo> {
        Some(self)
    }

    fn reset(&mut self) {
        self.state = ResetPortsState::POWER_ON;
        self.a20.set(true);
    }

    fn save(&self) -> Result<SavedState, DeviceError> {
        let state = ResetPortsState { port_a: self.port_a(), ..self.state };
        SavedState::encode(NAME, ResetPortsState::VERSION, &state)
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        let state: ResetPortsState = state.decode(ResetPortsState::VERSION)?;
        self.a20.set(state.port_a & A20 != 0);
        self.state = ResetPortsState { port_a: state.port_a & INIT_NOW, ..state };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Places, Processors, Requests, inb, outb, reset_gives_power_on_state};

    fn bench() -> (Arc<Requests>, ResetPorts) {
        let requests = Arc::new(Requests::default());
        (requests.clone(), ResetPorts::new(requests, A20Gate::new(Arc::<Processors>::default())))
    }

    #[test]
    fn the_a20_gate_reaches_the_processors_and_travels() {
        let processors = Arc::<Processors>::default();
        let mut device = ResetPorts::new(Arc::<Requests>::default(), A20Gate::new(processors.clone()));
        assert_eq!(inb(&mut device, layout::PORT_A), A20);
        outb(&mut device, layout::PORT_A, 0);
        assert_eq!((inb(&mut device, layout::PORT_A), processors.a20()), (0, false));
        let saved = device.save().unwrap();
        device.reset();
        assert_eq!((inb(&mut device, layout::PORT_A), processors.a20()), (A20, true));
        device.restore(&saved).unwrap();
        assert_eq!((inb(&mut device, layout::PORT_A), processors.a20()), (0, false));
    }

    #[test]
    fn the_acpi_reset_value_resets() {
        let (requests, mut device) = bench();
        outb(&mut device, layout::RESET_PORT, layout::RESET_VALUE);
        assert_eq!(requests.take(), [SystemRequest::Reset]);
    }

    #[test]
    fn only_the_rise_of_the_bit_resets() {
        let (requests, mut device) = bench();
        for value in [0x02, 0x0e, 0x06] {
            outb(&mut device, layout::RESET_PORT, value);
            assert_eq!(inb(&mut device, layout::RESET_PORT), value);
        }
        assert_eq!(requests.take(), [SystemRequest::Reset]);
        for value in [0x02, 0x03, 0x03] {
            outb(&mut device, layout::PORT_A, value);
            assert_eq!(inb(&mut device, layout::PORT_A), value);
        }
        assert_eq!(requests.take(), [SystemRequest::Reset]);
    }

    #[test]
    fn a_reset_gives_the_state_after_power_on() {
        let places = Places { ports: &ResetPorts::PORTS, memory: 0 };
        reset_gives_power_on_state(|| bench().1, &places);
    }
}
