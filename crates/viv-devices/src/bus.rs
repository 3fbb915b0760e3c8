//! Which device answers where.
//!
//! [`IoBus`] has the methods of [`viv_engine::Platform`] that are about ports and memory; a machine implements
//! the trait by handing them on. vCPUs look devices up while others run and while a guest moves a PCI BAR:
//! the tables' lock is held for the look-up only, never while a device works, so a device may map and unmap
//! from within an access.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tracing::trace;

use crate::device::Device;

/// A device as the bus and the machine hold it.
pub type SharedDevice = Arc<Mutex<dyn Device>>;

/// Locks a device, whatever happened to its lock's last holder.
pub fn lock(device: &SharedDevice) -> MutexGuard<'_, dyn Device + 'static> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Successive ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// How many.
    pub count: u16,
}

impl PortRange {
    /// `count` ports from `first` on.
    #[must_use]
    pub const fn new(first: u16, count: u16) -> Self {
        Self { first, count }
    }
}

/// Why a device cannot be mapped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// Another device has a part of it.
    #[error("{space} range {first:#x} to {last:#x} overlaps one that is mapped at {other:#x}")]
    Overlap {
        /// Ports or memory.
        space: Space,
        /// Its first address.
        first: u64,
        /// Its last address.
        last: u64,
        /// Where the other begins.
        other: u64,
    },
    /// It is empty or goes beyond the last address.
    #[error("a {space} range of {size:#x} bytes cannot begin at {first:#x}")]
    Bounds {
        /// Ports or memory.
        space: Space,
        /// Its first address.
        first: u64,
        /// Its size.
        size: u64,
    },
}

/// The two address spaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// Ports.
    Port,
    /// Guest-physical memory.
    Memory,
}

impl std::fmt::Display for Space {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Port => "port",
            Self::Memory => "memory",
        })
    }
}

/// Routes accesses to devices. One access at a time reaches a device; different devices work at once.
///
/// An access that lies within one range reaches its device whole. One that does not is made byte by byte, as
/// a bus bridge splits it. What no device claims reads as ones, and writes to it are dropped.
#[derive(Default)]
pub struct IoBus {
    ports: RwLock<RangeMap>,
    dwords: RwLock<RangeMap>,
    memory: RwLock<RangeMap>,
}

impl IoBus {
    /// A bus with no device.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives ports to a device.
    ///
    /// # Errors
    /// When a device has one of them already, or the range is empty or too long.
    pub fn map_ports(&self, ports: PortRange, device: SharedDevice) -> Result<(), BusError> {
        let (first, size) = (u64::from(ports.first), u64::from(ports.count));
        let last = last_of(Space::Port, first, size, u64::from(u16::MAX))?;
        write(&self.ports).insert(Space::Port, first, last, device)
    }

    /// Gives a device the 4-byte accesses at `port`, and no others, ahead of [`IoBus::map_ports`].
    ///
    /// This is how PCI's CONFIG_ADDRESS is decoded (PCI 3.0, 3.2.2.3.2): every narrower access at 0xcf8 to
    /// 0xcfb passes by, so that the reset register can lie at 0xcf9.
    ///
    /// # Errors
    /// When a device has them already.
    pub fn map_dword_port(&self, port: u16, device: SharedDevice) -> Result<(), BusError> {
        let port = u64::from(port);
        write(&self.dwords).insert(Space::Port, port, port, device)
    }

    /// Gives guest-physical addresses to a device.
    ///
    /// # Errors
    /// When a device has one of them already, or the range is empty or too long.
    pub fn map_memory(&self, start: u64, size: u64, device: SharedDevice) -> Result<(), BusError> {
        let last = last_of(Space::Memory, start, size, u64::MAX)?;
        write(&self.memory).insert(Space::Memory, start, last, device)
    }

    /// Takes the ports that were mapped from `first` on away from their device, and says whether there were
    /// any. An access that is under way completes.
    pub fn unmap_ports(&self, first: u16) -> bool {
        write(&self.ports).remove(first.into())
    }

    /// Takes the addresses that were mapped from `start` on away from their device, and says whether there
    /// were any. An access that is under way completes.
    pub fn unmap_memory(&self, start: u64) -> bool {
        write(&self.memory).remove(start)
    }

    /// Reads `data.len()` bytes (1, 2 or 4) at `port`.
    pub fn port_read(&self, port: u16, data: &mut [u8]) {
        match self.port_target(port, data.len()) {
            Target::Device { device, .. } => match lock(&device).port_io() {
                Some(ports) => ports.read(port, data),
                None => data.fill(0xff),
            },
            Target::Nobody => {
                trace!("unclaimed read of port {port:#x}");
                data.fill(0xff);
            }
            Target::Split => {
                data.fill(0xff);
                for (byte, port) in data.chunks_mut(1).zip(port..=u16::MAX) {
                    self.port_read(port, byte);
                }
            }
        }
    }

    /// Writes `data` (1, 2 or 4 bytes) to `port`.
    pub fn port_write(&self, port: u16, data: &[u8]) {
        match self.port_target(port, data.len()) {
            Target::Device { device, .. } => {
                if let Some(ports) = lock(&device).port_io() {
                    ports.write(port, data);
                }
            }
            Target::Nobody => trace!("unclaimed write of {data:02x?} to port {port:#x}"),
            Target::Split => {
                for (byte, port) in data.chunks(1).zip(port..=u16::MAX) {
                    self.port_write(port, byte);
                }
            }
        }
    }

    /// Reads `data.len()` bytes (1 to 8) at a guest-physical address.
    pub fn memory_read(&self, address: u64, data: &mut [u8]) {
        let target = read(&self.memory).find(address, data.len());
        match target {
            Target::Device { start, device } => match lock(&device).memory_io() {
                Some(memory) => memory.read(address.wrapping_sub(start), data),
                None => data.fill(0xff),
            },
            Target::Nobody => {
                trace!("unclaimed read of address {address:#x}");
                data.fill(0xff);
            }
            Target::Split => {
                data.fill(0xff);
                for (byte, address) in data.chunks_mut(1).zip(address..=u64::MAX) {
                    self.memory_read(address, byte);
                }
            }
        }
    }

    /// Writes `data` (1 to 8 bytes) at a guest-physical address.
    pub fn memory_write(&self, address: u64, data: &[u8]) {
        let target = read(&self.memory).find(address, data.len());
        match target {
            Target::Device { start, device } => {
                if let Some(memory) = lock(&device).memory_io() {
                    memory.write(address.wrapping_sub(start), data);
                }
            }
            Target::Nobody => trace!("unclaimed write of {data:02x?} to address {address:#x}"),
            Target::Split => {
                for (byte, address) in data.chunks(1).zip(address..=u64::MAX) {
                    self.memory_write(address, byte);
                }
            }
        }
    }

    fn port_target(&self, port: u16, length: usize) -> Target {
        if length == 4 {
            let target = read(&self.dwords).find(port.into(), 1);
            if matches!(target, Target::Device { .. }) {
                return target;
            }
        }
        read(&self.ports).find(port.into(), length)
    }
}

/// Who takes an access.
enum Target {
    /// A device, whose range begins at `start`, takes all of it.
    Device { start: u64, device: SharedDevice },
    /// No device takes any of it.
    Nobody,
    /// It crosses the bounds of ranges.
    Split,
}

/// The ranges of one address space, in ascending order and disjoint.
#[derive(Default)]
struct RangeMap(Vec<Mapping>);

struct Mapping {
    first: u64,
    last: u64,
    device: SharedDevice,
}

impl RangeMap {
    fn find(&self, address: u64, length: usize) -> Target {
        let more = u64::try_from(length).unwrap_or(u64::MAX).saturating_sub(1);
        let Some(last) = address.checked_add(more) else { return Target::Split };
        let index = self.0.partition_point(|mapping| mapping.last < address);
        match self.0.get(index) {
            Some(mapping) if mapping.first <= address && last <= mapping.last => {
                Target::Device { start: mapping.first, device: Arc::clone(&mapping.device) }
            }
            Some(mapping) if mapping.first <= last => Target::Split,
            _ => Target::Nobody,
        }
    }

    fn insert(&mut self, space: Space, first: u64, last: u64, device: SharedDevice) -> Result<(), BusError> {
        let index = self.0.partition_point(|mapping| mapping.last < first);
        if let Some(other) = self.0.get(index).filter(|other| other.first <= last) {
            return Err(BusError::Overlap { space, first, last, other: other.first });
        }
        self.0.insert(index, Mapping { first, last, device });
        Ok(())
    }

    fn remove(&mut self, first: u64) -> bool {
        let found = self.0.binary_search_by_key(&first, |mapping| mapping.first);
        found.map(|index| self.0.remove(index)).is_ok()
    }
}

fn last_of(space: Space, first: u64, size: u64, limit: u64) -> Result<u64, BusError> {
    size.checked_sub(1)
        .and_then(|more| first.checked_add(more))
        .filter(|&last| last <= limit)
        .ok_or(BusError::Bounds { space, first, size })
}

fn read(map: &RwLock<RangeMap>) -> RwLockReadGuard<'_, RangeMap> {
    map.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(map: &RwLock<RangeMap>) -> RwLockWriteGuard<'_, RangeMap> {
    map.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
