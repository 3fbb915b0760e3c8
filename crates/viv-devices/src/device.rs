//! What a device is.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A device of the machine.
///
/// What it offers, it says by the optional trait objects. The machine routes accesses to it, calls it back when
/// its timer is due, resets, saves and restores it; all of these one at a time, under the device's lock.
pub trait Device: Send {
    /// The name of its kind and instance, such as `uart0`: unique in a machine, stable across versions. Saved
    /// states carry it.
    fn name(&self) -> &str;

    /// Its ports, if it has any.
    fn port_io(&mut self) -> Option<&mut dyn PortIo> {
        None
    }

    /// Its registers in memory, if it has any.
    fn memory_io(&mut self) -> Option<&mut dyn MemoryIo> {
        None
    }

    /// What its timers call, if it has any.
    fn timer_events(&mut self) -> Option<&mut dyn TimerEvents> {
        None
    }

    /// Puts it in the state after power-on. Interrupt lines that it holds are let go.
    fn reset(&mut self);

    /// Its state, for [`Device::restore`] of another instance.
    fn save(&self) -> Result<SavedState, DeviceError>;

    /// Takes over a saved state, this version's or an older one's. Interrupt lines and timers are set anew
    /// from it.
    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError>;
}

/// Port accesses. `data` has 1, 2 or 4 bytes.
pub trait PortIo {
    /// Reads `data.len()` bytes at `port`, an absolute number within a range that was registered.
    fn read(&mut self, port: u16, data: &mut [u8]);

    /// Writes them.
    fn write(&mut self, port: u16, data: &[u8]);
}

/// Memory-mapped accesses. `data` has 1 to 8 bytes.
pub trait MemoryIo {
    /// Reads `data.len()` bytes at `offset` from the start of the range that was registered.
    fn read(&mut self, offset: u64, data: &mut [u8]);

    /// Writes them.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// The device's side of its [`Timer`](viv_engine::Timer).
pub trait TimerEvents {
    /// Guest time has reached the deadline (`now` is its current value, in nanoseconds).
    fn on_timer(&mut self, now: u64);
}

/// A device's state in a form that outlives the program's version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedState {
    /// The device's name.
    pub name: String,
    /// The version of what follows, from 1.
    pub version: u16,
    /// The state, in postcard's format.
    pub data: Vec<u8>,
}

impl SavedState {
    /// Encodes `state`.
    pub fn encode<T: Serialize>(name: &str, version: u16, state: &T) -> Result<Self, DeviceError> {
        let data = postcard::to_stdvec(state)
            .map_err(|source| DeviceError::Encode { name: name.to_owned(), source })?;
        Ok(Self { name: name.to_owned(), version, data })
    }

    /// Decodes a state of version `version`; another is refused.
    pub fn decode<T: DeserializeOwned>(&self, version: u16) -> Result<T, DeviceError> {
        if self.version != version {
            return Err(DeviceError::Version {
                name: self.name.clone(),
                found: self.version,
                known: version,
            });
        }
        postcard::from_bytes(&self.data)
            .map_err(|source| DeviceError::Decode { name: self.name.clone(), source })
    }
}

/// Why a device cannot be made, saved or restored.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The state does not encode.
    #[error("cannot save device {name}")]
    Encode {
        /// The device.
        name: String,
        /// Why.
        #[source]
        source: postcard::Error,
    },
    /// It has a state that cannot be had.
    #[error("the machine cannot be saved with {name}: {reason}")]
    NotSaved {
        /// The device.
        name: String,
        /// Why.
        reason: &'static str,
    },
    /// The saved state is damaged.
    #[error("the saved state of device {name} is damaged")]
    Decode {
        /// The device.
        name: String,
        /// Why.
        #[source]
        source: postcard::Error,
    },
    /// The saved state has a version that this program does not know.
    #[error(
        "the saved state of device {name} has version {found}; this program knows versions up to {known}"
    )]
    Version {
        /// The device.
        name: String,
        /// The version found.
        found: u16,
        /// The newest version known.
        known: u16,
    },
    /// The saved state contradicts itself or the machine.
    #[error("the saved state of device {name} cannot be right: {reason}")]
    Invalid {
        /// The device.
        name: String,
        /// What is wrong.
        reason: String,
    },
}
