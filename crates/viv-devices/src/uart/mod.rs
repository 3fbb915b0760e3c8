//! The serial line: a 16550A.
//!
//! Bytes take no time on the line. What the guest transmits goes to a [`CharBackend`], which may refuse it:
//! then the transmitter stays full until [`Uart::drain`]. What the host has for the guest goes in by
//! [`Uart::enqueue`] as far as the receiver has room, so that nothing is lost in either direction. A loop
//! that waits for file descriptors can drive both ends.
//!
//! Two liberties that guests rely on: the character timeout is due as soon as bytes below the trigger level
//! lie in the receiver, and OUT2 does not gate the interrupt.

mod regs;
mod state;

use std::collections::VecDeque;

use crate::bus::PortRange;
use crate::device::{Device, DeviceError, PortIo, SavedState};
use crate::irq::IrqLine;
use crate::layout;
use crate::portio::{read_bytes, write_bytes};

use regs::{Cause, FIFO_SIZE, FifoControl, InterruptEnable, LineStatus, ModemControl, ModemStatus};
use state::UartState;

/// The far end of a serial line, on the host. Called under the device's lock: it does not block, and does not
/// call the device.
pub trait CharBackend: Send {
    /// Takes what the guest has transmitted, and returns how many bytes of it. After fewer than all it sees
    /// to a call of [`Uart::drain`] once it can take more.
    fn transmit(&mut self, data: &[u8]) -> usize;

    /// The receiver has room again, after an [`Uart::enqueue`] that took fewer bytes than offered.
    fn input_wanted(&mut self);
}

/// A 16550A at 8 ports.
pub struct Uart {
    name: String,
    base: u16,
    line: IrqLine,
    backend: Box<dyn CharBackend>,
    registers: Registers,
    received: VecDeque<u8>,
    transmitting: VecDeque<u8>,
    /// Somebody waits for [`CharBackend::input_wanted`].
    input_held_back: bool,
}

#[derive(Debug)]
struct Registers {
    divisor: u16,
    interrupt_enable: InterruptEnable,
    fifo_control: u8,
    line_control: u8,
    modem_control: ModemControl,
    modem_status: ModemStatus,
    scratch: u8,
    overrun: bool,
    /// The transmitter became empty and the guest has not been told: a latch, for reading IIR clears it.
    transmitter_event: bool,
}

impl Default for Registers {
    fn default() -> Self {
        Self {
            divisor: 0,
            interrupt_enable: InterruptEnable::empty(),
            fifo_control: 0,
            line_control: 0,
            modem_control: ModemControl::empty(),
            modem_status: ModemStatus::ATTACHED,
            scratch: 0,
            overrun: false,
            transmitter_event: false,
        }
    }
}

impl Uart {
    /// The ports of the first serial line.
    pub const PORTS: [PortRange; 1] = [PortRange::new(layout::UART0, layout::UART_PORTS)];

    /// Serial line `index`, at the 8 ports from `base` on.
    #[must_use]
    pub fn new(index: u32, base: u16, line: IrqLine, backend: Box<dyn CharBackend>) -> Self {
        Self {
            name: format!("uart{index}"),
            base,
            line,
            backend,
            registers: Registers::default(),
            received: VecDeque::with_capacity(FIFO_SIZE),
            transmitting: VecDeque::with_capacity(FIFO_SIZE),
            input_held_back: false,
        }
    }

    /// Gives bytes to the guest, as many as the receiver has room for, and returns how many. After fewer
    /// than all, [`CharBackend::input_wanted`] tells when to go on.
    pub fn enqueue(&mut self, data: &[u8]) -> usize {
        let taken = data.len().min(self.input_room());
        self.received.extend(data.iter().take(taken));
        self.input_held_back |= taken < data.len();
        self.update_line();
        taken
    }

    /// Offers the backend again what it did not take.
    pub fn drain(&mut self) {
        if self.transmitting.is_empty() {
            return;
        }
        let waiting = self.transmitting.make_contiguous();
        let taken = self.backend.transmit(waiting).min(waiting.len());
        self.transmitting.drain(..taken);
        if self.transmitting.is_empty() {
            self.registers.transmitter_event = true;
        }
        self.update_line();
    }

    fn fifos_enabled(&self) -> bool {
        self.registers.fifo_control & FifoControl::ENABLE.bits() != 0
    }

    fn capacity(&self) -> usize {
        if self.fifos_enabled() { FIFO_SIZE } else { 1 }
    }

    /// How much the host can give. In loopback the receiver is cut off from the line.
    fn input_room(&self) -> usize {
        if self.registers.modem_control.contains(ModemControl::LOOPBACK) {
            return 0;
        }
        self.capacity().saturating_sub(self.received.len())
    }

    fn offer_input_room(&mut self) {
        if self.input_held_back && self.input_room() > 0 {
            self.input_held_back = false;
            self.backend.input_wanted();
        }
    }

    fn transmit(&mut self, byte: u8) {
        self.registers.transmitter_event = false;
        if self.registers.modem_control.contains(ModemControl::LOOPBACK) {
            self.loop_back(byte);
            self.registers.transmitter_event = true;
        } else if self.transmitting.len() < self.capacity() {
            self.transmitting.push_back(byte);
            self.drain();
        }
    }

    fn loop_back(&mut self, byte: u8) {
        if self.received.len() >= self.capacity() {
            self.registers.overrun = true;
            if self.fifos_enabled() {
                return;
            }
            self.received.clear();
        }
        self.received.push_back(byte);
    }

    fn receive(&mut self) -> u8 {
        let byte = self.received.pop_front().unwrap_or(0);
        self.offer_input_room();
        byte
    }

    fn line_status(&self) -> LineStatus {
        let mut status = LineStatus::empty();
        status.set(LineStatus::DATA_READY, !self.received.is_empty());
        status.set(LineStatus::OVERRUN, self.registers.overrun);
        let empty = self.transmitting.is_empty();
        status.set(LineStatus::TRANSMITTER_HOLDING_EMPTY | LineStatus::TRANSMITTER_EMPTY, empty);
        status
    }

    fn cause(&self) -> Option<Cause> {
        let enabled = self.registers.interrupt_enable;
        if enabled.contains(InterruptEnable::LINE_STATUS) && self.registers.overrun {
            return Some(Cause::LineStatus);
        }
        if enabled.contains(InterruptEnable::RECEIVED_DATA) && !self.received.is_empty() {
            let reached = !self.fifos_enabled()
                || self.received.len() >= regs::trigger_level(self.registers.fifo_control);
            return Some(if reached { Cause::ReceivedData } else { Cause::CharacterTimeout });
        }
        if enabled.contains(InterruptEnable::TRANSMITTER_EMPTY) && self.registers.transmitter_event {
            return Some(Cause::TransmitterEmpty);
        }
        let deltas = self.registers.modem_status.difference(ModemStatus::LINES);
        (enabled.contains(InterruptEnable::MODEM_STATUS) && !deltas.is_empty()).then_some(Cause::ModemStatus)
    }

    fn update_line(&self) {
        self.line.set(self.cause().is_some());
    }

    fn divisor_selected(&self) -> bool {
        self.registers.line_control & regs::LCR_DLAB != 0
    }

    fn read_register(&mut self, offset: u16) -> u8 {
        let [divisor_low, divisor_high] = self.registers.divisor.to_le_bytes();
        match offset {
            regs::DATA if self.divisor_selected() => divisor_low,
            regs::DATA => self.receive(),
            regs::INTERRUPT_ENABLE if self.divisor_selected() => divisor_high,
            regs::INTERRUPT_ENABLE => self.registers.interrupt_enable.bits(),
            regs::INTERRUPT_ID => {
                let cause = self.cause();
                if cause == Some(Cause::TransmitterEmpty) {
                    self.registers.transmitter_event = false;
                }
                Cause::id(cause) | if self.fifos_enabled() { regs::IIR_FIFOS } else { 0 }
            }
            regs::LINE_CONTROL => self.registers.line_control,
            regs::MODEM_CONTROL => self.registers.modem_control.bits(),
            regs::LINE_STATUS => {
                let status = self.line_status();
                self.registers.overrun = false;
                status.bits()
            }
            regs::MODEM_STATUS => {
                let status = self.registers.modem_status;
                self.registers.modem_status &= ModemStatus::LINES;
                status.bits()
            }
            regs::SCRATCH => self.registers.scratch,
            _ => 0xff,
        }
    }

    fn write_register(&mut self, offset: u16, value: u8) {
        let [divisor_low, divisor_high] = self.registers.divisor.to_le_bytes();
        match offset {
            regs::DATA if self.divisor_selected() => {
                self.registers.divisor = u16::from_le_bytes([value, divisor_high]);
            }
            regs::DATA => self.transmit(value),
            regs::INTERRUPT_ENABLE if self.divisor_selected() => {
                self.registers.divisor = u16::from_le_bytes([divisor_low, value]);
            }
            regs::INTERRUPT_ENABLE => self.set_interrupt_enable(InterruptEnable::from_bits_truncate(value)),
            regs::INTERRUPT_ID => self.set_fifo_control(value),
            regs::LINE_CONTROL => self.registers.line_control = value,
            regs::MODEM_CONTROL => self.set_modem_control(ModemControl::from_bits_truncate(value)),
            regs::SCRATCH => self.registers.scratch = value,
            // LSR and MSR are for reading; writing them is for factory tests.
            _ => {}
        }
    }

    fn set_interrupt_enable(&mut self, enabled: InterruptEnable) {
        let newly = enabled.difference(self.registers.interrupt_enable);
        // Drivers start transmission by enabling this interrupt: it is due at once if there is room.
        if newly.contains(InterruptEnable::TRANSMITTER_EMPTY) && self.transmitting.is_empty() {
            self.registers.transmitter_event = true;
        }
        self.registers.interrupt_enable = enabled;
    }

    fn set_fifo_control(&mut self, value: u8) {
        let control = FifoControl::from_bits_truncate(value);
        let toggled = control.contains(FifoControl::ENABLE) != self.fifos_enabled();
        if toggled || control.contains(FifoControl::RESET_RECEIVER) {
            self.received.clear();
        }
        if (toggled || control.contains(FifoControl::RESET_TRANSMITTER)) && !self.transmitting.is_empty() {
            self.transmitting.clear();
            self.registers.transmitter_event = true;
        }
        // Without bit 0 the other bits are not programmed.
        self.registers.fifo_control = if control.contains(FifoControl::ENABLE) { value & 0xc9 } else { 0 };
        self.offer_input_room();
    }

    fn set_modem_control(&mut self, control: ModemControl) {
        self.registers.modem_control = control;
        let lines = if control.contains(ModemControl::LOOPBACK) {
            ModemStatus::looped(control)
        } else {
            ModemStatus::ATTACHED
        };
        self.registers.modem_status = self.registers.modem_status.with_lines(lines);
        self.offer_input_room();
    }
}

impl PortIo for Uart {
    fn read(&mut self, port: u16, data: &mut [u8]) {
        read_bytes(port, data, |port| self.read_register(port.wrapping_sub(self.base)));
        self.update_line();
    }

    fn write(&mut self, port: u16, data: &[u8]) {
        write_bytes(port, data, |port, value| self.write_register(port.wrapping_sub(self.base), value));
        self.update_line();
    }
}

impl Device for Uart {
    fn name(&self) -> &str {
        &self.name
    }

    fn port_io(&mut self) -> Option<&mut dyn PortIo> {
        Some(self)
    }

    fn reset(&mut self) {
        self.registers = Registers::default();
        self.received.clear();
        self.transmitting.clear();
        self.offer_input_room();
        self.update_line();
    }

    fn save(&self) -> Result<SavedState, DeviceError> {
        let registers = &self.registers;
        let state = UartState {
            divisor: registers.divisor,
            interrupt_enable: registers.interrupt_enable.bits(),
            fifo_control: registers.fifo_control,
            line_control: registers.line_control,
            modem_control: registers.modem_control.bits(),
            modem_status: registers.modem_status.bits(),
            scratch: registers.scratch,
            overrun: registers.overrun,
            transmitter_event: registers.transmitter_event,
            received: self.received.iter().copied().collect(),
            transmitting: self.transmitting.iter().copied().collect(),
        };
        SavedState::encode(&self.name, UartState::VERSION, &state)
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        let state: UartState = state.decode(UartState::VERSION)?;
        if state.received.len() > FIFO_SIZE || state.transmitting.len() > FIFO_SIZE {
            return Err(DeviceError::Invalid {
                name: self.name.clone(),
                reason: "a FIFO holds more than 16 bytes".to_owned(),
            });
        }
        self.registers = Registers {
            divisor: state.divisor,
            interrupt_enable: InterruptEnable::from_bits_truncate(state.interrupt_enable),
            fifo_control: state.fifo_control,
            line_control: state.line_control,
            modem_control: ModemControl::from_bits_truncate(state.modem_control),
            modem_status: ModemStatus::from_bits_retain(state.modem_status),
            scratch: state.scratch,
            overrun: state.overrun,
            transmitter_event: state.transmitter_event,
        };
        self.received = state.received.into();
        self.transmitting = state.transmitting.into();
        self.drain();
        self.offer_input_room();
        self.update_line();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
