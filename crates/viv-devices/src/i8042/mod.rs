//! The keyboard controller: an 8042, with a keyboard and a mouse or with nothing attached.
//!
//! With nothing attached, bytes for a device are answered at once, by the timeout that the controller reports then, and
//! the test of the auxiliary port fails; so a guest's probe waits for nothing.
//!
//! Devices answer at once too. Their bytes come one by one: the next is in the output buffer as soon as the last was
//! read, with an edge on its interrupt line. A controller's answer takes the place of a byte that was not read.
//!
//! The A20 gate is one for this and for system control port A ([`A20Gate`]), which saves it.

mod keyboard;
mod keys;
mod mouse;
mod queue;
mod regs;
mod state;

use std::sync::Arc;

use crate::a20::A20Gate;
use crate::bus::PortRange;
use crate::device::{Device, DeviceError, PortIo, SavedState};
use crate::irq::IrqLine;
use crate::layout;
use crate::portio::{read_bytes, write_bytes};
use crate::system::{SystemControl, SystemRequest};

use regs::{Command, CommandByte, Status};
use state::{ControllerState, Devices, I8042State};

pub use keys::Key;
pub use mouse::MouseInput;

const NAME: &str = "i8042";

/// An 8042.
pub struct I8042 {
    line: IrqLine,
    /// Of the auxiliary port, where something is attached.
    auxiliary_line: Option<IrqLine>,
    system: Arc<dyn SystemControl>,
    a20: Arc<A20Gate>,
    state: I8042State,
}

impl I8042 {
    /// Its ports.
    pub const PORTS: [PortRange; 2] =
        [PortRange::new(layout::I8042_DATA, 1), PortRange::new(layout::I8042_COMMAND, 1)];

    /// A controller after power-on with nothing attached. `line` is [`layout::KEYBOARD_IRQ`].
    #[must_use]
    pub fn new(line: IrqLine, system: Arc<dyn SystemControl>, a20: Arc<A20Gate>) -> Self {
        Self { line, auxiliary_line: None, system, a20, state: power_on(false) }
    }

    /// A controller after power-on with a keyboard and a mouse. `auxiliary_line` is [`layout::MOUSE_IRQ`].
    #[must_use]
    pub fn with_devices(
        line: IrqLine,
        auxiliary_line: IrqLine,
        system: Arc<dyn SystemControl>,
        a20: Arc<A20Gate>,
    ) -> Self {
        Self { line, auxiliary_line: Some(auxiliary_line), system, a20, state: power_on(true) }
    }

    /// A key of the keyboard goes down or up. False if the guest has not fetched what was typed before and there is no
    /// room; without a keyboard and while it is switched off, keys go nowhere.
    pub fn key(&mut self, key: Key, down: bool) -> bool {
        let devices = self.state.devices.as_mut();
        let taken = devices.is_none_or(|devices| devices.keyboard.key(key, down));
        self.settle();
        taken
    }

    /// The user does something with the mouse. What the guest does not fetch in time is summed up.
    pub fn mouse(&mut self, input: MouseInput) {
        if let Some(devices) = &mut self.state.devices {
            devices.mouse.input(input);
        }
        self.settle();
    }

    /// The keyboard's lights that are on: scroll lock, number lock and capitals lock, from bit 0.
    #[must_use]
    pub fn leds(&self) -> u8 {
        self.state.devices.as_ref().map_or(0, |devices| devices.keyboard.leds())
    }

    fn command_byte(&self) -> CommandByte {
        let [byte, ..] = self.state.controller.ram;
        CommandByte::from_bits_retain(byte)
    }

    fn set_command_byte(&mut self, flag: CommandByte, value: bool) {
        let mut command_byte = self.command_byte();
        command_byte.set(flag, value);
        let [byte, ..] = &mut self.state.controller.ram;
        *byte = command_byte.bits();
    }

    fn status(&self) -> Status {
        let state = &self.state.controller;
        let mut status = Status::UNLOCKED;
        status.set(Status::OUTPUT_FULL, state.output_full);
        let system = state.self_tested || self.command_byte().contains(CommandByte::SYSTEM);
        status.set(Status::SYSTEM, system);
        status.set(Status::COMMAND, state.last_was_command);
        status.set(Status::AUXILIARY, self.state.from_auxiliary && state.output_full);
        status.set(Status::TIMEOUT, state.timeout && state.output_full);
        status
    }

    /// The output port, whose two highest known lines are the interrupts.
    fn output_port(&self) -> u8 {
        let state = &self.state.controller;
        let interrupt = match (state.output_full, self.state.from_auxiliary) {
            (false, _) => 0,
            (true, false) => regs::OUTPUT_KEYBOARD,
            (true, true) => regs::OUTPUT_AUXILIARY,
        };
        let a20 = if self.a20.is_open() { regs::OUTPUT_A20 } else { 0 };
        regs::OUTPUT_ONES | regs::OUTPUT_RESET | a20 | interrupt
    }

    fn put(&mut self, value: u8, from_auxiliary: bool) {
        self.state.controller.output = value;
        self.state.controller.output_full = true;
        self.state.controller.timeout = false;
        self.state.from_auxiliary = from_auxiliary;
    }

    fn answer(&mut self, value: u8) {
        self.put(value, false);
    }

    /// The answer in place of a device that is not attached.
    fn answer_timeout(&mut self) {
        self.answer(regs::NO_ANSWER);
        self.state.controller.timeout = true;
    }

    fn read_data(&mut self) -> u8 {
        self.state.controller.output_full = false;
        self.state.controller.output
    }

    fn write_command(&mut self, value: u8) {
        self.state.controller.last_was_command = true;
        self.state.controller.command = None;
        let command = Command::from_byte(value);
        match command {
            Command::ReadRam(index) => {
                let value = self.state.controller.ram.get(usize::from(index)).copied().unwrap_or(0);
                self.answer(value);
            }
            Command::TestAuxiliary if self.state.devices.is_none() => self.answer(regs::PORT_CLOCK_HIGH),
            Command::TestAuxiliary | Command::TestKeyboard => self.answer(regs::PORT_WORKS),
            Command::SelfTest => {
                self.state.controller.self_tested = true;
                self.answer(regs::SELF_TEST_PASSED);
            }
            Command::DisableAuxiliary => self.set_command_byte(CommandByte::AUXILIARY_DISABLED, true),
            Command::EnableAuxiliary => self.set_command_byte(CommandByte::AUXILIARY_DISABLED, false),
            Command::DisableKeyboard => self.set_command_byte(CommandByte::KEYBOARD_DISABLED, true),
            Command::EnableKeyboard => self.set_command_byte(CommandByte::KEYBOARD_DISABLED, false),
            Command::ReadInputPort => self.answer(regs::INPUT_PORT),
            Command::ReadOutputPort => self.answer(self.output_port()),
            Command::DisableA20 => self.a20.set(false),
            Command::EnableA20 => self.a20.set(true),
            Command::PulseOutputPort(lines) => self.drive_reset(lines),
            _ if command.takes_data() => self.state.controller.command = Some(value),
            _ => {}
        }
    }

    fn write_data(&mut self, value: u8) {
        self.state.controller.last_was_command = false;
        match self.state.controller.command.take().map(Command::from_byte) {
            Some(Command::WriteRam(index)) => {
                if let Some(byte) = self.state.controller.ram.get_mut(usize::from(index)) {
                    *byte = value;
                }
            }
            Some(Command::WriteOutputPort) => {
                self.a20.set(value & regs::OUTPUT_A20 != 0);
                self.drive_reset(value);
            }
            Some(Command::WriteKeyboardOutput) => self.answer(value),
            // With one port, what is to come from the auxiliary device comes from the keyboard.
            Some(Command::WriteAuxiliaryOutput) => self.put(value, self.state.devices.is_some()),
            // A byte for a device opens its port.
            Some(Command::WriteAuxiliary) => match &mut self.state.devices {
                Some(devices) => {
                    devices.mouse.write(value);
                    self.set_command_byte(CommandByte::AUXILIARY_DISABLED, false);
                }
                None => self.answer_timeout(),
            },
            _ => {
                self.set_command_byte(CommandByte::KEYBOARD_DISABLED, false);
                match &mut self.state.devices {
                    Some(devices) => devices.keyboard.write(value),
                    None => self.answer_timeout(),
                }
            }
        }
    }

    /// Drives the processor's reset line from the lowest bit of `lines`: low is reset.
    fn drive_reset(&self, lines: u8) {
        if lines & regs::OUTPUT_RESET == 0 {
            self.system.request(SystemRequest::Reset);
        }
    }

    /// Lets the next byte of a device into an empty output buffer, and makes the lines say what it holds.
    fn settle(&mut self) {
        self.update_lines();
        if !self.state.controller.output_full
            && let Some((value, from_auxiliary)) = self.next_byte()
        {
            self.put(value, from_auxiliary);
            self.update_lines();
        }
    }

    /// The next byte of a device whose port is open, and whether it is the auxiliary device's.
    fn next_byte(&mut self) -> Option<(u8, bool)> {
        let command_byte = self.command_byte();
        let I8042State { devices, key_up, .. } = &mut self.state;
        let Devices { keyboard, mouse } = devices.as_mut()?;
        if !command_byte.contains(CommandByte::KEYBOARD_DISABLED) {
            while let Some(byte) = keyboard.take() {
                if !command_byte.contains(CommandByte::TRANSLATE) {
                    return Some((byte, false));
                }
                if let Some(byte) = keyboard::translate(byte, key_up) {
                    return Some((byte, false));
                }
            }
        }
        let open = !command_byte.contains(CommandByte::AUXILIARY_DISABLED);
        open.then(|| mouse.take()).flatten().map(|byte| (byte, true))
    }

    fn update_lines(&self) {
        let full = self.state.controller.output_full;
        let auxiliary = self.state.from_auxiliary;
        let enabled = |interrupt| self.command_byte().contains(interrupt);
        self.line.set(full && !auxiliary && enabled(CommandByte::KEYBOARD_INTERRUPT));
        if let Some(line) = &self.auxiliary_line {
            line.set(full && auxiliary && enabled(CommandByte::AUXILIARY_INTERRUPT));
        }
    }
}

fn power_on(devices: bool) -> I8042State {
    let mut ram = [0; 32];
    let [command_byte, ..] = &mut ram;
    *command_byte = CommandByte::POWER_ON.bits();
    let controller = ControllerState {
        ram,
        output: 0,
        output_full: false,
        timeout: false,
        self_tested: false,
        last_was_command: false,
        command: None,
    };
    let devices = devices.then(Devices::power_on);
    I8042State { controller, from_auxiliary: false, key_up: false, devices }
}

impl PortIo for I8042 {
    fn read(&mut self, port: u16, data: &mut [u8]) {
        read_bytes(port, data, |port| match port {
            layout::I8042_DATA => self.read_data(),
            layout::I8042_COMMAND => self.status().bits(),
            _ => 0xff,
        });
        self.settle();
    }

    fn write(&mut self, port: u16, data: &[u8]) {
        write_bytes(port, data, |port, value| match port {
            layout::I8042_DATA => self.write_data(value),
            layout::I8042_COMMAND => self.write_command(value),
            _ => {}
        });
        self.settle();
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
        self.state = power_on(self.state.devices.is_some());
        self.update_lines();
    }

    fn save(&self) -> Result<SavedState, DeviceError> {
        SavedState::encode(NAME, I8042State::VERSION, &self.state)
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        let attached = self.state.devices.is_some();
        let state: I8042State = state.decode(I8042State::VERSION)?;
        if state.devices.is_some() != attached {
            return Err(invalid("it has other devices attached"));
        }
        if state.devices.as_ref().is_some_and(|devices| !devices.is_valid()) {
            return Err(invalid("more bytes wait than its devices keep"));
        }
        self.state = state;
        self.update_lines();
        Ok(())
    }
}

fn invalid(reason: &str) -> DeviceError {
    DeviceError::Invalid { name: NAME.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests;
