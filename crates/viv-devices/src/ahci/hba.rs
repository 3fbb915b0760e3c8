//! The controller's registers, and its interrupt.

use std::sync::Arc;

use viv_engine::GuestMemory;

use super::port::Port;
use super::regs::{PORTS_IMPLEMENTED, Register, VERSION, capabilities, control};
use crate::pci::{ConfigSpace, IntxLine, MsiCapability, regs as pci_regs};

/// How the controller interrupts: by a message while MSI is on, otherwise by INTA#.
pub(super) struct Wires {
    msi: MsiCapability,
    line: Arc<dyn IntxLine>,
    line_disabled: bool,
    /// The bits of IS for which a message was sent.
    announced: u32,
}

impl Wires {
    pub(super) fn new(msi: MsiCapability, line: Arc<dyn IntxLine>) -> Self {
        Self { msi, line, line_disabled: false, announced: 0 }
    }

    /// Takes over what the guest has written into the configuration space.
    pub(super) fn update(&mut self, config: &ConfigSpace) {
        self.msi.update(config);
        self.line_disabled = config.command() & pci_regs::command::INTERRUPT_DISABLE != 0;
    }

    /// Tells the guest of the bits of IS in `due`; of new ones only, if by message.
    fn drive(&mut self, due: u32) {
        if due & !self.announced != 0 {
            self.msi.send();
        }
        self.announced = if self.msi.is_enabled() { due } else { 0 };
        self.line.set(due != 0 && !self.line_disabled && !self.msi.is_enabled());
    }
}

/// The registers of the controller.
pub(super) struct Hba {
    pub(super) ports: Vec<Port>,
    pub(super) wires: Wires,
    /// GHC.IE.
    pub(super) interrupts_enabled: bool,
    /// IS.
    pub(super) interrupt_status: u32,
}

impl Hba {
    pub(super) fn new(ports: Vec<Port>, wires: Wires) -> Self {
        Self { ports, wires, interrupts_enabled: false, interrupt_status: 0 }
    }

    pub(super) fn read(&self, register: Register) -> u32 {
        match register {
            Register::Capabilities => capabilities::VALUE,
            Register::GlobalControl => {
                control::AHCI_ENABLE | if self.interrupts_enabled { control::INTERRUPT_ENABLE } else { 0 }
            }
            Register::InterruptStatus => self.interrupt_status,
            Register::PortsImplemented => PORTS_IMPLEMENTED,
            Register::Version => VERSION,
            Register::Port(port, register) => self.ports.get(port).map_or(0, |port| port.read(register)),
        }
    }

    pub(super) fn write(&mut self, memory: &GuestMemory, register: Register, value: u32) {
        match register {
            Register::GlobalControl if value & control::RESET != 0 => {
                (self.interrupts_enabled, self.interrupt_status) = (false, 0);
                self.ports.iter_mut().for_each(Port::reset);
            }
            Register::GlobalControl => self.interrupts_enabled = value & control::INTERRUPT_ENABLE != 0,
            Register::InterruptStatus => {
                self.interrupt_status &= !value;
                // What is still there, or there again, is worth another message (10.6.2).
                self.wires.announced = 0;
            }
            Register::Port(port, register) => {
                if let Some(port) = self.ports.get_mut(port) {
                    port.write(memory, register, value);
                }
            }
            Register::Capabilities | Register::PortsImplemented | Register::Version => {}
        }
        self.update_interrupts();
    }

    /// As after power-on, but for the wires.
    pub(super) fn power_on(&mut self) {
        (self.interrupts_enabled, self.interrupt_status) = (false, 0);
        self.ports.iter_mut().for_each(Port::power_on);
    }

    /// Whether INTA# would be asserted but for the command register's bit: the PCI status bit.
    pub(super) fn is_interrupt_pending(&self) -> bool {
        self.interrupts_enabled && self.interrupt_status != 0
    }

    /// Shows in IS which ports want to interrupt, and interrupts.
    pub(super) fn update_interrupts(&mut self) {
        for (index, port) in self.ports.iter().enumerate() {
            if port.wants_interrupt() {
                self.interrupt_status |=
                    1_u32.checked_shl(u32::try_from(index).unwrap_or(u32::MAX)).unwrap_or(0);
            }
        }
        let due = if self.interrupts_enabled { self.interrupt_status } else { 0 };
        self.wires.drive(due);
    }

    /// After a saved state was taken over: what was due then was announced then.
    pub(super) fn resume_interrupts(&mut self) {
        self.wires.announced = u32::MAX;
        self.update_interrupts();
    }
}
