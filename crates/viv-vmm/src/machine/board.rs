//! The board: devices in their places, and the processors' way to them.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use viv_devices::bus::{PortRange, lock};
use viv_devices::irq::IrqLine;
use viv_devices::irqchip::{IrqChip, IrqChipDevice};
use viv_devices::pci::{IntxLine, Lpc, PciBus, PciDevice, PciHost, Pirqs, Placing, Windows};
use viv_devices::{IoBus, SavedState, SharedDevice, layout};
use viv_engine::memory::HOLE_END;
use viv_engine::{Platform, Vm};

use crate::config::Profile;
use crate::error::MachineError;

/// Bus, interrupt controllers and every device.
///
/// Locks: a device's, then that of the interrupt controllers; PCI has its own order within its device's.
pub(crate) struct Board {
    routes: Arc<Routes>,
    pci: PciBus,
    pirqs: Arc<Pirqs>,
    next_slot: u8,
    /// In the order in which they are reset, saved and restored.
    devices: Vec<SharedDevice>,
}

/// What an access of a processor needs.
struct Routes {
    bus: IoBus,
    irqchip: Arc<IrqChip>,
}

/// What is left to PCI where RAM ends at `memory_end`. Firmware puts 64-bit BARs anywhere after RAM.
pub(crate) fn windows(memory_end: u64, placing: Placing) -> Windows {
    let mut memory64 = layout::pci_mmio64(memory_end);
    if placing == Placing::Firmware {
        memory64.start = memory_end.max(HOLE_END);
    }
    Windows { memory32: layout::PCI_MMIO32, memory64, ports: layout::PCI_IO }
}

impl Board {
    /// A board with interrupt controllers and a PCI bus that has nothing but its bridges, for RAM that ends at `memory_end`.
    pub(crate) fn new(vm: &Arc<dyn Vm>, memory_end: u64, profile: Profile) -> Result<Self, MachineError> {
        let irqchip = IrqChip::new(vm.clone(), vm.clone());
        let placing = match profile {
            Profile::Micro => Placing::Machine,
            Profile::Pc => Placing::Firmware,
        };
        let pci = PciBus::new(windows(memory_end, placing), placing);
        let pirqs = Pirqs::new(Arc::clone(&irqchip));
        let routes = Routes { bus: IoBus::new(), irqchip: Arc::clone(&irqchip) };
        let mut board = Self { routes: Arc::new(routes), pci, pirqs, next_slot: 1, devices: Vec::new() };

        let chips = Arc::new(Mutex::new(IrqChipDevice::new(irqchip)));
        board.add(chips.clone(), &IrqChip::PORTS)?;
        board.map_memory(layout::IOAPIC_BASE..layout::IOAPIC_BASE + layout::IOAPIC_SIZE, chips)?;
        board.add_pci_host()?;
        if profile == Profile::Pc {
            board.pci.add(layout::LPC_SLOT, Box::new(Lpc::new(Arc::clone(&board.pirqs))))?;
        }
        Ok(board)
    }

    fn add_pci_host(&mut self) -> Result<(), MachineError> {
        let host = self.pci.host();
        let memory = host.memory();
        let host: SharedDevice = Arc::new(Mutex::new(host));
        let data = PciHost::CONFIG_DATA_PORTS;
        let io = layout::PCI_IO;
        let ports = [
            PortRange::new(*data.start(), data.end() - data.start() + 1),
            PortRange::new(io.start, io.end - io.start),
        ];
        self.add(host.clone(), &ports)?;
        self.routes.bus.map_dword_port(PciHost::CONFIG_ADDRESS_PORT, host.clone())?;
        self.map_memory(memory, host)?;

        let high = self.pci.high_window();
        let memory = high.memory();
        let high: SharedDevice = Arc::new(Mutex::new(high));
        self.add(high.clone(), &[])?;
        self.map_memory(memory, high)
    }

    /// Puts a device on the board, at these ports.
    pub(crate) fn add(&mut self, device: SharedDevice, ports: &[PortRange]) -> Result<(), MachineError> {
        for &range in ports {
            self.routes.bus.map_ports(range, device.clone())?;
        }
        self.devices.push(device);
        Ok(())
    }

    /// Gives it these addresses.
    pub(crate) fn map_memory(&self, range: Range<u64>, device: SharedDevice) -> Result<(), MachineError> {
        Ok(self.routes.bus.map_memory(range.start, range.end - range.start, device)?)
    }

    /// Puts a function that `make` builds into the next slot of PCI, and gives the slot and what else `make` made.
    pub(crate) fn add_pci<D: PciDevice + 'static, T>(
        &mut self,
        make: impl FnOnce(u8, Arc<dyn IntxLine>) -> Result<(D, T), MachineError>,
    ) -> Result<(u8, T), MachineError> {
        let slot = self.next_slot;
        self.next_slot = self.next_slot.saturating_add(1);
        let line = Arc::new(PinLine(self.pirqs.line(slot)));
        let (function, besides) = make(slot, line)?;
        self.pci.add(slot, Box::new(function))?;
        Ok((slot, besides))
    }

    /// The interrupt controllers.
    pub(crate) fn irqchip(&self) -> &Arc<IrqChip> {
        &self.routes.irqchip
    }

    /// A new source of an interrupt line.
    pub(crate) fn line(&self, gsi: u32) -> IrqLine {
        self.routes.irqchip.line(gsi)
    }

    /// The PCI bus.
    pub(crate) fn pci(&self) -> &PciBus {
        &self.pci
    }

    /// The way of the processors to the board.
    pub(crate) fn platform(&self) -> Arc<dyn Platform> {
        self.routes.clone()
    }

    /// Puts every device in the state after power-on.
    pub(crate) fn reset(&self) {
        for device in &self.devices {
            lock(device).reset();
        }
    }

    /// The state of every device.
    pub(crate) fn save(&self) -> Result<Vec<SavedState>, MachineError> {
        self.devices.iter().map(|device| Ok(lock(device).save()?)).collect()
    }

    /// Gives every device its state back. There must be one for each, and no other.
    pub(crate) fn restore(&self, states: &[SavedState]) -> Result<(), MachineError> {
        if let Some(state) = states.iter().find(|state| !self.has(&state.name)) {
            return Err(MachineError::Misfit(format!("this one has no device {:?}", state.name)));
        }
        for device in &self.devices {
            let mut device = lock(device);
            let mut of_this = states.iter().filter(|state| state.name == device.name());
            match (of_this.next(), of_this.next()) {
                (Some(state), None) => device.restore(state)?,
                (None, _) => {
                    return Err(MachineError::Misfit(format!("it has no device {:?}", device.name())));
                }
                (Some(_), Some(_)) => {
                    return Err(MachineError::Misfit(format!("it has device {:?} twice", device.name())));
                }
            }
        }
        Ok(())
    }

    fn has(&self, name: &str) -> bool {
        self.devices.iter().any(|device| lock(device).name() == name)
    }
}

/// A PCI function's interrupt pin on the interrupt controllers.
struct PinLine(IrqLine);

impl IntxLine for PinLine {
    fn set(&self, asserted: bool) {
        self.0.set(asserted);
    }
}

impl Platform for Routes {
    fn port_read(&self, port: u16, data: &mut [u8]) {
        self.bus.port_read(port, data);
    }

    fn port_write(&self, port: u16, data: &[u8]) {
        self.bus.port_write(port, data);
    }

    fn memory_read(&self, address: u64, data: &mut [u8]) {
        self.bus.memory_read(address, data);
    }

    fn memory_write(&self, address: u64, data: &[u8]) {
        self.bus.memory_write(address, data);
    }

    fn acknowledge_extint(&self) -> Option<u8> {
        self.irqchip.acknowledge()
    }

    fn end_of_interrupt(&self, vector: u8) {
        self.irqchip.end_of_interrupt(vector);
    }
}
