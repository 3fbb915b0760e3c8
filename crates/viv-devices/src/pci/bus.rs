//! The bus: functions by slot, and the routing to them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::bridge;
use super::bridge::HostBridge;
use super::config::{BARS, Bar, BarKind, ConfigSpace};
use super::device::PciDevice;
use super::host::{HighWindow, PciHost};
use super::window::Window;
use crate::{DeviceError, SavedState, layout};

/// How many devices a bus can have.
const SLOTS: u8 = 32;

/// Why a function cannot be added.
#[derive(Debug, thiserror::Error)]
pub enum PciError {
    /// The slot is taken, or there is none with this number.
    #[error("PCI slot {slot} cannot take {name}: it is taken or does not exist")]
    Slot {
        /// The slot.
        slot: u8,
        /// The function.
        name: String,
    },
    /// No window has room for a BAR.
    #[error("no room for BAR {bar} of {name}: {size:#x} bytes")]
    NoRoom {
        /// The BAR's index.
        bar: usize,
        /// The function.
        name: String,
        /// The BAR's size.
        size: u64,
    },
    /// No window has room for an expansion ROM.
    #[error("no room for the expansion ROM of {name}: {size:#x} bytes")]
    NoRoomForRom {
        /// The function.
        name: String,
        /// The size of its place.
        size: u32,
    },
    /// An expansion ROM is not the function's.
    #[error("the expansion ROM of {name} cannot be used: {reason}; give the file that was made for it")]
    Rom {
        /// The function.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The function's configuration space has no room for what it should hold.
    #[error("the configuration space of {name} cannot hold its {what}")]
    Config {
        /// The function.
        name: String,
        /// What does not fit.
        what: &'static str,
    },
    /// The host refused something the function needs.
    #[error("cannot {action} for {name}")]
    Host {
        /// What was being done.
        action: &'static str,
        /// The function.
        name: String,
        /// What the host answered.
        #[source]
        source: std::io::Error,
    },
}

/// The ranges of addresses that the machine leaves to PCI.
#[derive(Debug, Clone)]
pub struct Windows {
    /// Memory below 4 GiB, ECAM included.
    pub memory32: Range<u64>,
    /// Memory above 4 GiB; may be empty.
    pub memory64: Range<u64>,
    /// Ports; may be empty.
    pub ports: Range<u16>,
}

/// Who gives the BARs and ECAM their addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placing {
    /// The machine, before the guest starts: for systems that are started with no firmware.
    Machine,
    /// The guest's firmware. Nothing answers before.
    Firmware,
}

/// A PCI bus. Clones are handles to the same one.
#[derive(Clone)]
pub struct PciBus {
    inner: Arc<Mutex<Inner>>,
}

pub(super) struct Inner {
    functions: BTreeMap<u8, Box<dyn PciDevice>>,
    windows: Windows,
    /// Where BARs are put, if the machine does so.
    places: Option<Places>,
}

struct Places {
    memory32: Window,
    memory64: Window,
    ports: Window,
}

impl Places {
    fn new(windows: &Windows) -> Self {
        let below_ecam = windows.memory32.end.min(layout::PCI_ECAM_BASE);
        Self {
            memory32: Window::new(windows.memory32.start..below_ecam),
            memory64: Window::new(windows.memory64.clone()),
            ports: Window::new(windows.ports.start.into()..windows.ports.end.into()),
        }
    }

    fn take(&mut self, bar: Bar) -> Option<u64> {
        match bar.kind {
            BarKind::Memory32 | BarKind::Prefetchable32 => self.memory32.take(bar.size),
            BarKind::Memory64 => self.memory64.take(bar.size).or_else(|| self.memory32.take(bar.size)),
            BarKind::Io => self.ports.take(bar.size),
        }
    }
}

/// What a BAR is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Space {
    Memory,
    Io,
}

/// The part of a function that an access reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Region {
    Bar(usize),
    Rom,
}

/// The part of a function that claims the addresses from `first` to `last`, and the offset of `first` in it.
fn claimed(config: &ConfigSpace, space: Space, first: u64, last: u64) -> Option<(Region, u64)> {
    let within = |start: u64, size: u64| {
        let offset = first.checked_sub(start)?;
        (last.checked_sub(start)? < size).then_some(offset)
    };
    let bars = (0..BARS).find_map(|index| {
        let bar = config.bar(index).filter(|bar| (bar.kind == BarKind::Io) == (space == Space::Io))?;
        Some((Region::Bar(index), within(config.bar_address(index)?, bar.size)?))
    });
    bars.or_else(|| {
        let size = config.rom_size().filter(|_| space == Space::Memory)?;
        Some((Region::Rom, within(config.rom_address()?, size.into())?))
    })
}

impl PciBus {
    /// A bus with nothing but its host bridge, in slot 0.
    #[must_use]
    pub fn new(windows: Windows, placing: Placing) -> Self {
        let bridge: Box<dyn PciDevice> = Box::new(HostBridge::new(placing));
        let inner = Inner {
            functions: BTreeMap::from([(0, bridge)]),
            places: (placing == Placing::Machine).then(|| Places::new(&windows)),
            windows,
        };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Puts a function into `slot` (1 to 31). If the machine places them, its BARs get their addresses: 64-bit ones above
    /// 4 GiB where there is room.
    ///
    /// # Errors
    /// When the slot is taken or does not exist, or a window is full.
    pub fn add(&self, slot: u8, mut function: Box<dyn PciDevice>) -> Result<(), PciError> {
        let mut inner = self.lock();
        if slot >= SLOTS || inner.functions.contains_key(&slot) {
            return Err(PciError::Slot { slot, name: function.name().to_owned() });
        }
        if let Some(places) = &mut inner.places {
            for index in 0..BARS {
                let Some(bar) = function.config().bar(index) else { continue };
                let name = || function.name().to_owned();
                let address = places.take(bar).ok_or_else(|| PciError::NoRoom {
                    bar: index,
                    name: name(),
                    size: bar.size,
                })?;
                function.config_mut().assign_bar(index, address);
            }
            if let Some(size) = function.config().rom_size() {
                let address = places
                    .memory32
                    .take(size.into())
                    .ok_or_else(|| PciError::NoRoomForRom { name: function.name().to_owned(), size })?;
                function.config_mut().assign_rom(address);
            }
        }
        inner.functions.insert(slot, function);
        Ok(())
    }

    /// Where ECAM is now, if it is anywhere.
    #[must_use]
    pub fn ecam(&self) -> Option<Range<u64>> {
        self.lock().ecam()
    }

    /// The device through which the machine reaches the bus: everything but the window above 4 GiB.
    #[must_use]
    pub fn host(&self) -> PciHost {
        PciHost::new(self.clone())
    }

    /// The device for the window above 4 GiB.
    #[must_use]
    pub fn high_window(&self) -> HighWindow {
        let start = self.lock().windows.memory64.start;
        HighWindow::new(self.clone(), start)
    }

    /// The windows it was made with.
    #[must_use]
    pub fn windows(&self) -> Windows {
        self.lock().windows.clone()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Reads configuration space. `function` is bus, device and function number, in 16 bits.
    pub(super) fn config_read(&mut self, function: u16, offset: u16, data: &mut [u8]) {
        match self.function(function) {
            Some(device) => device.config_read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// Writes configuration space.
    pub(super) fn config_write(&mut self, function: u16, offset: u16, data: &[u8]) {
        if let Some(device) = self.function(function) {
            device.config_write(offset, data);
        }
    }

    fn function(&mut self, number: u16) -> Option<&mut Box<dyn PciDevice>> {
        let is_function_0_of_bus_0 = number & 0xff07 == 0;
        let slot = u8::try_from(number >> 3).ok()?;
        self.functions.get_mut(&slot).filter(|_| is_function_0_of_bus_0)
    }

    fn ecam(&self) -> Option<Range<u64>> {
        self.functions.get(&0).and_then(|bridge| bridge::ecam(bridge.config()))
    }

    /// Where an address lies in ECAM: the function and offset.
    fn in_ecam(&self, address: u64) -> Option<(u16, u16)> {
        let ecam = self.ecam().filter(|ecam| ecam.contains(&address))?;
        let offset = address.checked_sub(ecam.start)?;
        Some(((offset >> 12) as u16, (offset & 0xfff) as u16))
    }

    /// Reads `data.len()` bytes at an address below 4 GiB.
    pub(super) fn memory_read(&mut self, address: u64, data: &mut [u8]) {
        match self.in_ecam(address) {
            Some((function, register)) => self.config_read(function, register, data),
            None => self.read(Space::Memory, address, data),
        }
    }

    /// Writes them.
    pub(super) fn memory_write(&mut self, address: u64, data: &[u8]) {
        match self.in_ecam(address) {
            Some((function, register)) => self.config_write(function, register, data),
            None => self.write(Space::Memory, address, data),
        }
    }

    /// Reads `data.len()` bytes at an address in a BAR.
    pub(super) fn read(&mut self, space: Space, address: u64, data: &mut [u8]) {
        match self.route(space, address, data.len()) {
            Some((device, Region::Bar(bar), offset)) => device.bar_read(bar, offset, data),
            Some((device, Region::Rom, offset)) => device.rom_read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// Writes them.
    pub(super) fn write(&mut self, space: Space, address: u64, data: &[u8]) {
        if let Some((device, Region::Bar(bar), offset)) = self.route(space, address, data.len()) {
            device.bar_write(bar, offset, data);
        }
    }

    /// The function and the part of it that claim `length` bytes at `address`, and the offset in it. Where they
    /// overlap, the first wins.
    fn route(
        &mut self,
        space: Space,
        address: u64,
        length: usize,
    ) -> Option<(&mut Box<dyn PciDevice>, Region, u64)> {
        let last = address.checked_add(u64::try_from(length).ok()?.checked_sub(1)?)?;
        self.functions.values_mut().find_map(|device| {
            let (region, offset) = claimed(device.config(), space, address, last)?;
            Some((device, region, offset))
        })
    }

    pub(super) fn reset(&mut self) {
        for function in self.functions.values_mut() {
            function.reset();
        }
    }

    pub(super) fn save(&self) -> Result<Vec<(u8, SavedState)>, DeviceError> {
        self.functions.iter().map(|(slot, function)| Ok((*slot, function.save()?))).collect()
    }

    /// Restores every function. The states must be those of these functions in these slots.
    pub(super) fn restore(&mut self, name: &str, states: &[(u8, SavedState)]) -> Result<(), DeviceError> {
        let here = self.functions.iter().map(|(slot, function)| (*slot, function.name()));
        if !here.eq(states.iter().map(|(slot, state)| (*slot, state.name.as_str()))) {
            let reason = "the functions on the bus are not those that were saved".to_owned();
            return Err(DeviceError::Invalid { name: name.to_owned(), reason });
        }
        self.functions.values_mut().zip(states).try_for_each(|(function, (_, state))| function.restore(state))
    }
}
