//! The keyboard controller: an 8042 with one port and no keyboard.
//!
//! Bytes for the keyboard are answered at once, by the timeout that the controller reports when nothing is
//! attached, and the test of the auxiliary port fails; so a guest's probe waits for nothing.
//!
//! The A20 gate can be read back and does nothing: address line 20 is always open.

mod regs;
mod state;

use std::sync::Arc;

use crate::bus::PortRange;
use crate::device::{Device, DeviceError, PortIo, SavedState};
use crate::irq::IrqLine;
use crate::layout;
use crate::portio::{read_bytes, write_bytes};
use crate::system::{SystemControl, SystemRequest};

use regs::{Command, CommandByte, Status};
use state::I8042State;

const NAME: &str = "i8042";

/// An 8042.
pub struct I8042 {
    line: IrqLine,
    system: Arc<dyn SystemControl>,
    state: I8042State,
}

impl I8042 {
    /// Its ports.
    pub const PORTS: [PortRange; 2] =
        [PortRange::new(layout::I8042_DATA, 1), PortRange::new(layout::I8042_COMMAND, 1)];

    /// A controller after power-on. `line` is [`layout::KEYBOARD_IRQ`].
    #[must_use]
    pub fn new(line: IrqLine, system: Arc<dyn SystemControl>) -> Self {
        Self { line, system, state: power_on() }
    }

    fn command_byte(&self) -> CommandByte {
        let [byte, ..] = self.state.ram;
        CommandByte::from_bits_retain(byte)
    }

    fn set_command_byte(&mut self, flag: CommandByte, value: bool) {
        let mut command_byte = self.command_byte();
        command_byte.set(flag, value);
        let [byte, ..] = &mut self.state.ram;
        *byte = command_byte.bits();
    }

    fn status(&self) -> Status {
        let mut status = Status::UNLOCKED;
        status.set(Status::OUTPUT_FULL, self.state.output_full);
        let system = self.state.self_tested || self.command_byte().contains(CommandByte::SYSTEM);
        status.set(Status::SYSTEM, system);
        status.set(Status::COMMAND, self.state.last_was_command);
        status.set(Status::TIMEOUT, self.state.timeout && self.state.output_full);
        status
    }

    fn answer(&mut self, value: u8) {
        self.state.output = value;
        self.state.output_full = true;
        self.state.timeout = false;
    }

    /// The answer in place of a device that is not attached.
    fn answer_timeout(&mut self) {
        self.answer(regs::NO_ANSWER);
        self.state.timeout = true;
    }

    fn read_data(&mut self) -> u8 {
        self.state.output_full = false;
        self.state.output
    }

    fn write_command(&mut self, value: u8) {
        self.state.last_was_command = true;
        self.state.command = None;
        let command = Command::from_byte(value);
        match command {
            Command::ReadRam(index) => {
                let value = self.state.ram.get(usize::from(index)).copied().unwrap_or(0);
                self.answer(value);
            }
            Command::TestAuxiliary => self.answer(regs::PORT_CLOCK_HIGH),
            Command::SelfTest => {
                self.state.self_tested = true;
                self.answer(regs::SELF_TEST_PASSED);
            }
            Command::TestKeyboard => self.answer(regs::PORT_WORKS),
            Command::DisableKeyboard => self.set_command_byte(CommandByte::KEYBOARD_DISABLED, true),
            Command::EnableKeyboard => self.set_command_byte(CommandByte::KEYBOARD_DISABLED, false),
            Command::ReadInputPort => self.answer(regs::INPUT_PORT),
            Command::ReadOutputPort => {
                let a20 = if self.state.a20 { regs::OUTPUT_A20 } else { 0 };
                self.answer(regs::OUTPUT_ONES | regs::OUTPUT_RESET | a20);
            }
            Command::DisableA20 => self.state.a20 = false,
            Command::EnableA20 => self.state.a20 = true,
            Command::PulseOutputPort(lines) => self.drive_reset(lines),
            _ if command.takes_data() => self.state.command = Some(value),
            _ => {}
        }
    }

    fn write_data(&mut self, value: u8) {
        self.state.last_was_command = false;
        match self.state.command.take().map(Command::from_byte) {
            Some(Command::WriteRam(index)) => {
                if let Some(byte) = self.state.ram.get_mut(usize::from(index)) {
                    *byte = value;
                }
            }
            Some(Command::WriteOutputPort) => {
                self.state.a20 = value & regs::OUTPUT_A20 != 0;
                self.drive_reset(value);
            }
            // With one port, what is to come from the auxiliary device comes from the keyboard.
            Some(Command::WriteKeyboardOutput | Command::WriteAuxiliaryOutput) => self.answer(value),
            Some(Command::WriteAuxiliary) => self.answer_timeout(),
            _ => {
                // A byte for the keyboard opens its port.
                self.set_command_byte(CommandByte::KEYBOARD_DISABLED, false);
                self.answer_timeout();
            }
        }
    }

    /// Drives the processor's reset line from the lowest bit of `lines`: low is reset.
    fn drive_reset(&self, lines: u8) {
        if lines & regs::OUTPUT_RESET == 0 {
            self.system.request(SystemRequest::Reset);
        }
    }

    fn update_line(&self) {
        let enabled = self.command_byte().contains(CommandByte::KEYBOARD_INTERRUPT);
        self.line.set(enabled && self.state.output_full);
    }
}

fn power_on() -> I8042State {
    let mut ram = [0; 32];
    let [command_byte, ..] = &mut ram;
    *command_byte = CommandByte::POWER_ON.bits();
    I8042State {
        ram,
        output: 0,
        output_full: false,
        timeout: false,
        self_tested: false,
        last_was_command: false,
        command: None,
        a20: true,
    }
}

impl PortIo for I8042 {
    fn read(&mut self, port: u16, data: &mut [u8]) {
        read_bytes(port, data, |port| match port {
            layout::I8042_DATA => self.read_data(),
            layout::I8042_COMMAND => self.status().bits(),
            _ => 0xff,
        });
        self.update_line();
    }

    fn write(&mut self, port: u16, data: &[u8]) {
        write_bytes(port, data, |port, value| match port {
            layout::I8042_DATA => self.write_data(value),
            layout::I8042_COMMAND => self.write_command(value),
            _ => {}
        });
        self.update_line();
    }
}

impl Device for I8042 {
    fn name(&self) -> &str {
        NAME
    }

    fn port_io(&mut self) -> Option<&mut dyn PortIo> {
        Some(self)
    }

    fn reset(&mut self) {
        self.state = power_on();
        self.update_line();
    }

    fn save(&self) -> Result<SavedState, DeviceError> {
        SavedState::encode(NAME, I8042State::VERSION, &self.state)
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        self.state = state.decode(I8042State::VERSION)?;
        self.update_line();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
