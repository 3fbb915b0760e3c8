//! What becomes of interrupts that KVM delivers by number: its routing table.
//!
//! Numbers below [`PINS`] are the IOAPIC's pins. Nothing is ever delivered by them, as the IOAPIC is not KVM's; but KVM
//! tells of the end of a level-triggered interrupt only if a route of theirs has its vector. The numbers above send the
//! messages of eventfds.
//!
//! KVM takes the table as a whole, and waits for its readers: it is only written when it has changed.

use std::collections::BTreeMap;

use kvm_bindings::{KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry, kvm_msi};
use kvm_ioctls::VmFd;
use viv_engine::{EngineError, Msi};

use crate::error;

/// How many pins the IOAPIC has, for all of which KVM keeps a number.
pub(crate) const PINS: u8 = 24;
/// One more than the highest number that KVM takes.
const END: u32 = 4096;

/// The routing table of a machine.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    table: BTreeMap<u32, Msi>,
}

impl Routes {
    /// The level-triggered message of an IOAPIC pin.
    pub(crate) fn set_pin(&mut self, vm: &VmFd, pin: u8, message: Option<Msi>) -> Result<(), EngineError> {
        if pin >= PINS || self.table.get(&pin.into()) == message.as_ref() {
            return Ok(());
        }
        match message {
            Some(message) => self.table.insert(pin.into(), message),
            None => self.table.remove(&pin.into()),
        };
        self.write(vm)
    }

    /// The vectors of level-triggered interrupts that may reach the local APIC `id`.
    pub(crate) fn level_vectors(&self, id: u32) -> Vec<u8> {
        let pins = self.table.range(..u32::from(PINS)).map(|(_, message)| message);
        pins.filter(|message| message.is_logical() || message.destination() == id)
            .map(|message| message.vector())
            .collect()
    }

    /// A free number, which sends `message` from now on.
    pub(crate) fn add(&mut self, vm: &VmFd, message: Msi) -> Result<u32, EngineError> {
        let number = (u32::from(PINS)..END)
            .find(|number| !self.table.contains_key(number))
            .ok_or_else(|| error::invalid("route an interrupt", "there are no more routes"))?;
        self.table.insert(number, message);
        self.write(vm)?;
        Ok(number)
    }

    /// Has a number that [`Routes::add`] gave send `message`.
    pub(crate) fn change(&mut self, vm: &VmFd, number: u32, message: Msi) -> Result<(), EngineError> {
        match self.table.get_mut(&number).filter(|_| number >= PINS.into()) {
            Some(slot) if *slot == message => Ok(()),
            Some(slot) => {
                *slot = message;
                self.write(vm)
            }
            None => Err(error::invalid("change an interrupt's route", "there is no such route")),
        }
    }

    /// Gives a number back.
    pub(crate) fn remove(&mut self, vm: &VmFd, number: u32) -> Result<(), EngineError> {
        self.table.remove(&number);
        self.write(vm)
    }

    fn write(&self, vm: &VmFd) -> Result<(), EngineError> {
        const ACTION: &str = "tell KVM how interrupts are routed";
        let entries: Vec<_> = self.table.iter().map(|(&number, &message)| entry(number, message)).collect();
        let routing =
            KvmIrqRouting::from_entries(&entries).map_err(|_| error::invalid(ACTION, "too many routes"))?;
        vm.set_gsi_routing(&routing).map_err(error::host(ACTION))
    }
}

fn entry(gsi: u32, msi: Msi) -> kvm_irq_routing_entry {
    let kvm_msi { address_lo, address_hi, data, .. } = message(msi);
    let mut entry =
        kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..kvm_irq_routing_entry::default() };
    entry.u.msi.address_lo = address_lo;
    entry.u.msi.address_hi = address_hi;
    entry.u.msi.data = data;
    entry
}

/// The message in KVM's form, in which bits 8 to 31 of the destination lie in the address's upper half.
pub(crate) fn message(msi: Msi) -> kvm_msi {
    kvm_msi {
        address_lo: (msi.address as u32) & !0xfe0,
        address_hi: msi.destination() & 0xffff_ff00,
        data: msi.data,
        ..kvm_msi::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_beyond_255_move_to_the_upper_half() {
        let kvm = message(Msi { address: 0xfee0_1000 | 3 << 5 | 4, data: 0x31 });
        assert_eq!((kvm.address_lo, kvm.address_hi, kvm.data), (0xfee0_1004, 0x300, 0x31));
    }
}
