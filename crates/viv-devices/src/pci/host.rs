//! The ways from the processors to the bus.

use serde::{Deserialize, Serialize};

use super::bus::{PciBus, Space};
use crate::layout;
use crate::{Device, DeviceError, MemoryIo, PortIo, SavedState};

/// CONFIG_ADDRESS (PCI 3.0, 3.2.2.3.2): bit 31 enables, bits 8 to 23 name the function, 2 to 7 the register.
const CONFIG_ADDRESS: u16 = layout::PCI_CONFIG_ADDRESS;
const ENABLE: u32 = 1 << 31;
/// CONFIG_DATA, 4 bytes.
const CONFIG_DATA: u16 = layout::PCI_CONFIG_DATA;
const CONFIG_DATA_LAST: u16 = CONFIG_DATA.saturating_add(3);

/// The way to configuration space, to the window below 4 GiB and to ports. It saves and restores the whole
/// bus.
///
/// The machine registers it for these ranges:
/// - port 0xcf8 ([`PciHost::CONFIG_ADDRESS_PORT`]), for accesses of 4 bytes only
///   ([`IoBus::map_dword_port`](crate::IoBus::map_dword_port)), because 0xcf9 is the chipset's reset register;
/// - ports 0xcfc to 0xcff ([`PciHost::CONFIG_DATA_PORTS`]);
/// - the ports of [`Windows`](super::Windows), if any;
/// - the memory of the window below 4 GiB ([`PciHost::memory`]), in which ECAM lies too.
pub struct PciHost {
    bus: PciBus,
    /// Where the range of memory starts.
    start: u64,
    address: u32,
}

impl PciHost {
    /// Where CONFIG_ADDRESS is.
    pub const CONFIG_ADDRESS_PORT: u16 = CONFIG_ADDRESS;
    /// Where CONFIG_DATA is.
    pub const CONFIG_DATA_PORTS: std::ops::RangeInclusive<u16> = CONFIG_DATA..=CONFIG_DATA_LAST;

    pub(super) fn new(bus: PciBus) -> Self {
        let start = bus.windows().memory32.start;
        Self { bus, start, address: 0 }
    }

    /// The range of memory to register it for.
    #[must_use]
    pub fn memory(&self) -> std::ops::Range<u64> {
        self.bus.windows().memory32
    }

    /// The function and offset that CONFIG_DATA stands for, byte `within` of it.
    fn selected(&self, within: u16) -> Option<(u16, u16)> {
        let function = (self.address >> 8) as u16;
        let register = (self.address & 0xfc) as u16;
        (self.address & ENABLE != 0).then_some((function, register | within))
    }
}

#[derive(Serialize, Deserialize)]
struct HostState {
    address: u32,
    functions: Vec<(u8, SavedState)>,
}

const HOST_VERSION: u16 = 1;

impl Device for PciHost {
    fn name(&self) -> &str {
        "pci"
    }

    fn port_io(&mut self) -> Option<&mut dyn PortIo> {
        Some(self)
    }

    fn memory_io(&mut self) -> Option<&mut dyn MemoryIo> {
        Some(self)
    }

    fn reset(&mut self) {
        self.address = 0;
        self.bus.lock().reset();
    }

    fn save(&self) -> Result<SavedState, DeviceError> {
        let state = HostState { address: self.address, functions: self.bus.lock().save()? };
        SavedState::encode(self.name(), HOST_VERSION, &state)
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        let state: HostState = state.decode(HOST_VERSION)?;
        self.bus.lock().restore(self.name(), &state.functions)?;
        self.address = state.address;
        Ok(())
    }
}

impl PortIo for PciHost {
    fn read(&mut self, port: u16, data: &mut [u8]) {
        match port {
            CONFIG_ADDRESS => match <&mut [u8; 4]>::try_from(&mut *data) {
                Ok(register) => *register = self.address.to_le_bytes(),
                Err(_) => data.fill(0xff),
            },
            CONFIG_DATA..=CONFIG_DATA_LAST => {
                let within = port & 3;
                let room = usize::from(4_u16.saturating_sub(within));
                let (inside, outside) = data.split_at_mut(room.min(data.len()));
                outside.fill(0xff);
                match self.selected(within) {
                    Some((function, offset)) => self.bus.lock().config_read(function, offset, inside),
                    None => inside.fill(0xff),
                }
            }
            _ => self.bus.lock().read(Space::Io, u64::from(port), data),
        }
    }

    fn write(&mut self, port: u16, data: &[u8]) {
        match port {
            CONFIG_ADDRESS => {
                if let Ok(register) = data.try_into() {
                    self.address = u32::from_le_bytes(register);
                }
            }
            CONFIG_DATA..=CONFIG_DATA_LAST => {
                let within = port & 3;
                let room = usize::from(4_u16.saturating_sub(within));
                let inside = data.get(..room).unwrap_or(data);
                if let Some((function, offset)) = self.selected(within) {
                    self.bus.lock().config_write(function, offset, inside);
                }
            }
            _ => self.bus.lock().write(Space::Io, u64::from(port), data),
        }
    }
}

impl MemoryIo for PciHost {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.bus.lock().memory_read(self.start.saturating_add(offset), data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.bus.lock().memory_write(self.start.saturating_add(offset), data);
    }
}

/// The way to the window above 4 GiB. It has no state.
pub struct HighWindow {
    bus: PciBus,
    start: u64,
}

impl HighWindow {
    pub(super) fn new(bus: PciBus, start: u64) -> Self {
        Self { bus, start }
    }

    /// The range of memory to register it for.
    #[must_use]
    pub fn memory(&self) -> std::ops::Range<u64> {
        self.bus.windows().memory64
    }
}

impl Device for HighWindow {
    fn name(&self) -> &str {
        "pci-high"
    }

    fn memory_io(&mut self) -> Option<&mut dyn MemoryIo> {
        Some(self)
    }

    fn reset(&mut self) {}

    fn save(&self) -> Result<SavedState, DeviceError> {
        SavedState::encode(self.name(), HOST_VERSION, &())
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        state.decode(HOST_VERSION)
    }
}

impl MemoryIo for HighWindow {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.bus.lock().read(Space::Memory, self.start.saturating_add(offset), data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.bus.lock().write(Space::Memory, self.start.saturating_add(offset), data);
    }
}
