//! A SATA controller: AHCI 1.3.1, as the 82801I (ICH9) has it, with disks (ACS-3) and CD-ROM drives (MMC-6, SPC-3) at
//! its six ports.
//!
//! It is in AHCI mode for good: there are no legacy IDE ports, no port multipliers, no command completion coalescing.
//!
//! - [`Ahci`]: the PCI function; `hba.rs`, `port.rs`: its registers; `regs.rs`: their names.
//! - [`Drive`]: what is at a port: [`AtaDisk`] or [`Cdrom`].
//! - `transfer.rs`: commands and data in guest memory; `fis.rs`: what goes over the link.
//!
//! # Threads
//!
//! The driver issues commands by a register write on a vCPU's thread. As with virtio, that only rings; the thread for
//! devices carries the commands out, one after the other, by [`Worker`](crate::doorbell::Worker). Queued commands
//! too are done in the order in which they are taken.
//!
//! Each drive has a lock, held while a command is carried out, and the registers have one, held for moments: a guest
//! can look at registers and issue commands while the host's disk works. A write that resets the controller or a link,
//! or stops a port, waits for the drive's lock: after it nothing moves in guest memory. Locks are taken in this order:
//! the bus's, the drives' by port, the registers'.
//!
//! # Hostile drivers
//!
//! A command header, its FIS and its packet are read once. Regions are read as they are used, and a command moves at
//! most 32 MiB, however many regions there are. What lies outside RAM stops the port with HBFS or HBDS; a FIS that is
//! none is answered as an unknown command. One turn carries out at most as many commands as there are slots.

mod ata;
mod atapi;
mod drive;
mod fis;
mod hba;
mod port;
mod regs;
mod state;
#[cfg(test)]
mod tests;
mod transfer;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use viv_engine::GuestMemory;

pub use ata::AtaDisk;
pub use atapi::Cdrom;
pub use drive::Drive;

use crate::doorbell::{Doorbell, Serve, Worker};
use crate::pci::{Bar, BarKind, ConfigSpace, Connections, Identity, MsiCapability, PciDevice, PciError};
use crate::{DeviceError, SavedState};
use drive::{ABORTED, Protocol, Reply};
use hba::{Hba, Wires};
use port::{Issued, Outcome, Port};
use regs::{BAR_SIZE, PORTS, PortRegister, Register, SLOTS, control, fis as fis_bits, link};
use transfer::{Command, MemoryFault};

/// ABAR.
const BAR: usize = 5;
/// The ICH9's in AHCI mode, on six ports.
const IDENTITY: Identity = Identity {
    vendor: 0x8086,
    device: 0x2922,
    revision: 2,
    class: 0x01_06_01,
    subsystem_vendor: 0x1af4,
    subsystem: 0x1100,
};

/// A SATA controller as a PCI function.
pub struct Ahci {
    name: String,
    config: ConfigSpace,
    controller: Arc<Controller>,
}

/// What the vCPUs' threads and the one for devices share.
struct Controller {
    memory: GuestMemory,
    drives: Vec<Mutex<Option<Drive>>>,
    hba: Mutex<Hba>,
    doorbell: Arc<Doorbell>,
}

/// Locks, also after a panic elsewhere: what a guest can change is checked wherever it is used.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ahci {
    /// How many ports there are.
    pub const PORTS: usize = PORTS;

    /// Makes a controller named `name`, such as `ahci0`, with `drives` at its ports, the first at port 0.
    ///
    /// # Errors
    /// When the host gives no eventfd.
    pub fn new(
        name: &str,
        drives: [Option<Drive>; PORTS],
        connections: Connections,
    ) -> Result<Self, PciError> {
        let too_much = |what| PciError::Config { name: name.to_owned(), what };
        let doorbell = Doorbell::new().map_err(|source| PciError::Host {
            action: "make an eventfd",
            name: name.to_owned(),
            source,
        })?;
        let mut config = ConfigSpace::new(IDENTITY);
        config.set_interrupt(connections.line_number);
        if !config.add_bar(BAR, Bar { kind: BarKind::Memory32, size: BAR_SIZE }) {
            return Err(too_much("registers"));
        }
        let msi =
            MsiCapability::add(&mut config, connections.msi).ok_or_else(|| too_much("MSI capability"))?;
        let ports = drives.iter().map(|drive| Port::new(drive.as_ref().map(Drive::signature))).collect();
        let controller = Controller {
            memory: connections.memory,
            drives: drives.into_iter().map(Mutex::new).collect(),
            hba: Mutex::new(Hba::new(ports, Wires::new(msi, connections.line))),
            doorbell: Arc::new(doorbell),
        };
        Ok(Self { name: name.to_owned(), config, controller: Arc::new(controller) })
    }

    /// What the thread for devices needs of it.
    #[must_use]
    pub fn worker(&self) -> Worker {
        Worker::new(self.controller.clone(), self.controller.doorbell.clone())
    }

    /// Makes what the guest wrote outlive a crash of the host, for when the machine stops.
    ///
    /// # Errors
    /// When a disk cannot be flushed.
    pub fn flush(&self) -> Result<(), viv_disk::DiskError> {
        let drives = self.controller.drives.iter();
        drives.filter_map(|drive| lock(drive).as_mut().map(Drive::flush)).collect()
    }

    fn power_on(&mut self) {
        self.config.reset();
        self.controller.power_on(&self.config);
    }
}

impl Controller {
    /// Reads a register; those that there are not read as zeroes.
    fn read(&self, offset: u64) -> u32 {
        Register::at(offset).map_or(0, |register| lock(&self.hba).read(register))
    }

    /// Writes a register. Where that resets or stops something, the drives concerned rest meanwhile.
    fn write(&self, offset: u64, value: u32) {
        let Some(register) = Register::at(offset) else { return };
        let is_disturbed = |index: usize| match register {
            Register::GlobalControl => value & control::RESET != 0,
            Register::Port(port, register) => port == index && Port::disturbs(register, value),
            _ => false,
        };
        let resets = match register {
            Register::GlobalControl => true,
            Register::Port(_, PortRegister::SataControl) => value & link::DETECTION == link::DETECTION_RESET,
            _ => false,
        };
        let disturbed = self.drives.iter().enumerate().filter(|&(index, _)| is_disturbed(index));
        let mut resting: Vec<_> = disturbed.map(|(_, drive)| lock(drive)).collect();
        if resets {
            for drive in resting.iter_mut().filter_map(|drive| drive.as_mut()) {
                drive.reset();
            }
        }
        let mut hba = lock(&self.hba);
        hba.write(&self.memory, register, value);
        if let Register::Port(index, _) = register
            && hba.ports.get(index).is_some_and(Port::has_work)
        {
            self.ring(index);
        }
    }

    fn power_on(&self, config: &ConfigSpace) {
        let mut drives: Vec<_> = self.drives.iter().map(lock).collect();
        for drive in drives.iter_mut().filter_map(|drive| drive.as_mut()) {
            drive.reset();
        }
        let mut hba = lock(&self.hba);
        hba.power_on();
        hba.wires.update(config);
        hba.update_interrupts();
        self.doorbell.clear();
    }

    fn ring(&self, port: usize) {
        self.doorbell.ring(u16::try_from(port).unwrap_or(u16::MAX));
    }

    /// Has every port looked at.
    fn ring_all(&self) {
        (0..PORTS).for_each(|port| self.ring(port));
    }

    /// Carries out a port's next command. Returns whether there was one.
    fn carry_out_next(&self, index: usize) -> bool {
        let Some(mut drive) = self.drives.get(index).map(lock) else { return false };
        let next = lock(&self.hba).ports.get_mut(index).and_then(Port::next_command);
        let (Some(issued), Some(drive)) = (next, drive.as_mut()) else { return false };
        let outcome = self.carry_out(drive, issued);
        let mut hba = lock(&self.hba);
        if let Some(port) = hba.ports.get_mut(index) {
            port.conclude(&self.memory, issued, outcome);
        }
        hba.update_interrupts();
        true
    }

    fn carry_out(&self, drive: &mut Drive, issued: Issued) -> Outcome {
        let Ok(command) = Command::fetch(&self.memory, issued.list, issued.slot) else {
            return Outcome::NotFetched;
        };
        let mut transfer = command.transfer(&self.memory);
        let reply = match command.task_file {
            Some(task_file) if !task_file.is_command => {
                let asserted = task_file.control & fis_bits::SOFT_RESET != 0;
                if asserted {
                    drive.reset();
                }
                return Outcome::SoftReset { asserted };
            }
            Some(task_file) => drive.execute(&task_file, &command, &mut transfer),
            None => Ok(Reply { protocol: Protocol::Plain, answer: ABORTED }),
        };
        match reply {
            Ok(reply) => Outcome::Done { moved: transfer.result(), command, reply },
            Err(MemoryFault) => Outcome::NotMoved,
        }
    }
}

impl Serve for Controller {
    fn serve(&self, index: u16) {
        let port = usize::from(index);
        // One round of all slots; then the other ports have a turn.
        for _ in 0..SLOTS {
            if !self.carry_out_next(port) {
                return;
            }
        }
        self.ring(port);
    }
}

impl PciDevice for Ahci {
    fn name(&self) -> &str {
        &self.name
    }

    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        let pending = lock(&self.controller.hba).is_interrupt_pending();
        self.config.set_interrupt_status(pending);
        self.config.read(offset, data);
    }

    fn config_write(&mut self, offset: u16, data: &[u8]) {
        self.config.write(offset, data);
        let mut hba = lock(&self.controller.hba);
        hba.wires.update(&self.config);
        hba.update_interrupts();
    }

    /// Registers are read by any size, at any place.
    fn bar_read(&mut self, _bar: usize, offset: u64, data: &mut [u8]) {
        let mut at = offset;
        for byte in data {
            let register = self.controller.read(at & !3).to_le_bytes();
            *byte = register.get((at & 3) as usize).copied().unwrap_or(0);
            at = at.saturating_add(1);
        }
    }

    /// Registers are written whole, one or two (3): anything else is dropped.
    fn bar_write(&mut self, _bar: usize, offset: u64, data: &[u8]) {
        let (registers, rest) = data.as_chunks();
        if !offset.is_multiple_of(4) || !rest.is_empty() {
            return;
        }
        for (at, value) in (offset..).step_by(4).zip(registers) {
            self.controller.write(at, u32::from_le_bytes(*value));
        }
    }

    fn reset(&mut self) {
        self.power_on();
    }

    fn save(&self) -> Result<SavedState, DeviceError> {
        self.save_state()
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        self.restore_state(state)
    }
}
