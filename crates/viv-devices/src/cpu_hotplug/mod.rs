//! CPUs that come and go while the machine runs, as ACPI has it: this device says which are there, a general-purpose
//! event ([`layout::CPU_HOTPLUG_GPE`]) says that it has news, and methods in the DSDT look and tell the system.
//!
//! A CPU that is plugged in is there at once; the guest takes it into use when it likes. One that is to be unplugged is
//! there until the guest ejects it, which it may never do; a guest may also eject one that nobody asked for. The first
//! CPU stays. When the machine is reset, all is as the host wants it.
//!
//! It knows no vCPUs: the machine asks which are there ([`CpuHotplug::present`]) after each change, and is told of
//! ejections ([`SystemRequest::CpuEjected`]).

mod regs;
mod state;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::bus::PortRange;
use crate::device::{Device, DeviceError, PortIo, SavedState};
use crate::layout;
use crate::system::{SystemControl, SystemRequest};
use regs::{Flags, Register, command};
use state::{CpuHotplugState, Slot};

const NAME: &str = "cpu-hotplug0";

/// The CPUs that there are and could be.
pub struct CpuHotplug {
    system: Arc<dyn SystemControl>,
    state: CpuHotplugState,
}

impl CpuHotplug {
    /// Its ports.
    pub const PORTS: [PortRange; 1] = [PortRange::new(layout::CPU_HOTPLUG, layout::CPU_HOTPLUG_LENGTH)];

    /// A machine with room for `most` CPUs, of which the first `present`, at least one, are there.
    #[must_use]
    pub fn new(present: u32, most: u32, system: Arc<dyn SystemControl>) -> Self {
        let slot = |index| Slot { present: index < present.max(1), ..Slot::default() };
        let slots = (0..most).map(slot).collect();
        let state = CpuHotplugState { selector: 0, command: 0, wanted: present.max(1), slots };
        Self { system, state }
    }

    /// Which CPUs are there, by index.
    pub fn present(&self) -> impl Iterator<Item = bool> {
        self.state.slots.iter().map(|slot| slot.present)
    }

    /// How many CPUs the host wants there to be.
    #[must_use]
    pub fn wanted(&self) -> u32 {
        self.state.wanted
    }

    /// Wants there to be so many CPUs, at least one: those that are missing are plugged in, those with higher indices the
    /// guest is asked to eject. Returns whether the guest has to be told by the event.
    pub fn set_wanted(&mut self, wanted: u32) -> bool {
        self.state.wanted = wanted.max(1);
        for (slot, index) in self.state.slots.iter_mut().zip(0..) {
            let is_wanted = index < self.state.wanted;
            if is_wanted && !slot.present {
                (slot.present, slot.inserting) = (true, true);
            }
            slot.removing = slot.present && !is_wanted;
        }
        self.state.slots.iter().any(|slot| slot.inserting || slot.removing)
    }

    fn selected(&mut self) -> Option<&mut Slot> {
        self.state.slots.get_mut(usize::try_from(self.state.selector).ok()?)
    }

    fn read_register(&mut self, register: Register) -> u32 {
        let (selector, last) = (self.state.selector, self.state.command);
        let Some(slot) = self.selected() else { return 0 };
        match register {
            Register::Flags => {
                let mut flags = Flags::empty();
                flags.set(Flags::ENABLED, slot.present);
                flags.set(Flags::INSERTING, slot.inserting);
                flags.set(Flags::REMOVING, slot.removing);
                flags.bits().into()
            }
            Register::Data if matches!(last, command::NEXT_EVENT | command::ARCH_ID) => selector,
            // Local APIC ids have no upper half.
            Register::Selector | Register::Command | Register::Data => 0,
        }
    }

    fn write_register(&mut self, register: Register, value: u32) {
        match register {
            Register::Selector => self.state.selector = value,
            Register::Flags => self.control(Flags::from_bits_truncate(low_byte(value))),
            Register::Command => {
                self.state.command = low_byte(value);
                if self.state.command == command::NEXT_EVENT {
                    self.select_next_event();
                }
            }
            // With commands that mean nothing.
            Register::Data => {}
        }
    }

    fn control(&mut self, flags: Flags) {
        let selector = self.state.selector;
        let Some(slot) = self.selected() else { return };
        slot.inserting &= !flags.contains(Flags::INSERTING);
        slot.removing &= !flags.contains(Flags::REMOVING);
        if flags.contains(Flags::EJECT) && slot.present && selector != 0 {
            *slot = Slot::default();
            self.system.request(SystemRequest::CpuEjected);
        }
    }

    /// Selects the first CPU with news, from the selected one on and around; leaves it at that if there is none.
    fn select_next_event(&mut self) {
        let from = usize::try_from(self.state.selector).unwrap_or(usize::MAX);
        let news = |(_, slot): &(u32, &Slot)| slot.inserting || slot.removing;
        let all = || (0..).zip(&self.state.slots);
        let next = all().skip(from).find(news).or_else(|| all().find(news));
        if let Some((index, _)) = next {
            self.state.selector = index;
        }
    }
}

fn low_byte(value: u32) -> u8 {
    let [low, ..] = value.to_le_bytes();
    low
}

impl PortIo for CpuHotplug {
    fn read(&mut self, port: u16, data: &mut [u8]) {
        let register = Register::at(port.wrapping_sub(layout::CPU_HOTPLUG), data.len());
        let value = register.map_or(0, |register| self.read_register(register));
        for (place, byte) in data.iter_mut().zip(value.to_le_bytes()) {
            *place = byte;
        }
    }

    fn write(&mut self, port: u16, data: &[u8]) {
        let mut value = [0; 4];
        for (place, &byte) in value.iter_mut().zip(data) {
            *place = byte;
        }
        if let Some(register) = Register::at(port.wrapping_sub(layout::CPU_HOTPLUG), data.len()) {
            self.write_register(register, u32::from_le_bytes(value));
        }
    }
}

impl Device for CpuHotplug {
    fn name(&self) -> &str {
        NAME
    }

    fn port_io(&mut self) -> Option<&mut dyn PortIo> {
        Some(self)
    }

    fn reset(&mut self) {
        let CpuHotplugState { selector, command, wanted, slots } = &mut self.state;
        (*selector, *command) = (0, 0);
        for (slot, index) in slots.iter_mut().zip(0..) {
            *slot = Slot { present: index < *wanted, ..Slot::default() };
        }
    }

    fn save(&self) -> Result<SavedState, DeviceError> {
        SavedState::encode(NAME, CpuHotplugState::VERSION, &self.state)
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        let state: CpuHotplugState = state.decode(CpuHotplugState::VERSION)?;
        let invalid = |reason| Err(DeviceError::Invalid { name: NAME.to_owned(), reason });
        let (had, has) = (state.slots.len(), self.state.slots.len());
        if had != has {
            return invalid(format!("it had room for {had} CPUs and has room for {has}"));
        }
        if state.wanted == 0 || !state.slots.first().is_some_and(|slot| slot.present) {
            return invalid("it has no first CPU".to_owned());
        }
        self.state = state;
        Ok(())
    }
}
