//! What a PCI function is.

use std::sync::Arc;

use viv_engine::{GuestMemory, MsiTarget};

use super::config::ConfigSpace;
use crate::{DeviceError, SavedState};

/// A function on the bus. All calls come one at a time, under the bus's lock.
pub trait PciDevice: Send {
    /// The name of its kind and instance, such as `virtio-blk0`: unique in a machine, stable across versions.
    fn name(&self) -> &str;

    /// Its configuration space.
    fn config(&self) -> &ConfigSpace;

    /// Its configuration space, to change.
    fn config_mut(&mut self) -> &mut ConfigSpace;

    /// The guest reads 1 to 8 bytes of its configuration space at `offset`, below 4096.
    fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        self.config().read(offset, data);
    }

    /// The guest writes them.
    fn config_write(&mut self, offset: u16, data: &[u8]) {
        self.config_mut().write(offset, data);
    }

    /// The guest reads 1 to 8 bytes at `offset` in a BAR, all within it.
    fn bar_read(&mut self, bar: usize, offset: u64, data: &mut [u8]);

    /// The guest writes them.
    fn bar_write(&mut self, bar: usize, offset: u64, data: &[u8]);

    /// The guest reads 1 to 8 bytes at `offset` in the expansion ROM's place, all within it. Writes to it are dropped.
    fn rom_read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    /// Puts it in the state after power-on, BARs where the machine put them.
    fn reset(&mut self);

    /// See [`Device::save`](crate::Device::save).
    fn save(&self) -> Result<SavedState, DeviceError>;

    /// See [`Device::restore`](crate::Device::restore).
    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError>;
}

/// What the machine connects a function to that accesses memory and interrupts.
pub struct Connections {
    /// Guest memory.
    pub memory: GuestMemory,
    /// Where its messages go.
    pub msi: Arc<dyn MsiTarget>,
    /// Its INTA#.
    pub line: Arc<dyn IntxLine>,
    /// The interrupt of the system that INTA# is connected to, for the interrupt line register.
    pub line_number: u8,
}

/// A function's INTA#, as connected to the interrupt controllers. Level-triggered; the last word counts.
///
/// Any thread may call it. It does not block for long and does not call PCI functions.
pub trait IntxLine: Send + Sync {
    /// Says whether the function asserts it.
    fn set(&self, asserted: bool);
}
