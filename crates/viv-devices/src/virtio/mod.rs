//! virtio: devices made for virtual machines (VIRTIO 1.3).
//!
//! - [`VirtioDevice`]: what a kind of device does: [`Balloon`], [`Block`], [`Console`],
//!   [`Entropy`], [`Memory`], [`Net`], [`Pmem`], [`Vsock`], and [`VhostUser`] for those whose work another process does.
//! - [`VirtioPci`]: the transport, a PCI function through which a guest's driver reaches the device.
//! - [`Virtqueue`]: a queue at work, over the ring in guest memory; [`Chain`]: one request in it.
//! - [`Interrupt`]: the way back to the driver.
//! - [`Worker`] and [`Doorbell`]: how requests get from the processors' threads to the one that serves them.
//!
//! # Threads
//!
//! A driver rings for a queue by a register write, on a vCPU's thread, which should go on running the guest.
//! So the transport only notes the queue in the device's [`Doorbell`] and signals its eventfd. The machine has a
//! thread for each disk and each [`Pmem`] and one for all other devices: it waits for the eventfds of its [`Worker`]s and calls
//! [`Worker::process`] for those that are readable; tests call it themselves. Several rings before the thread gets to it cost one wake-up. A device that
//! answers faster than a thread wakes up says so ([`VirtioDevice::is_inline`]) and is served on the vCPU's thread.
//!
//! A device has a lock of its own ([`Shared`]), so that one that waits for the host's disk stops no vCPU but those
//! that touch its configuration or reset it. Locks are taken in this order: the bus's, the device's, the
//! interrupt's.
//!
//! # Life of a queue
//!
//! When the driver sets DRIVER_OK the transport calls [`VirtioDevice::start_queue`] for every enabled queue, with
//! where its ring is and how far it got; on reset, and to save, [`VirtioDevice::stop_queue`], which answers how far it
//! got. A request that a device has taken may go on between calls, as those to a disk do, which end in any order; what a
//! device cannot begin it leaves in the ring. Whoever stops a queue waits for what was taken from it: `stop_queue` brings
//! that to its end, gives it back, and answers only then, so that no request is ever half in a state. So a
//! saved device is its registers, its queues' positions and a few values of its own. The machine lets the
//! devices' threads rest while it saves or restores, and has disks drained before ([`Block::drain`]): what a request
//! still writes to guest memory, and the interrupt at its end, belong to what is saved.
//!
//! # Hostile drivers
//!
//! Rings and descriptors lie in memory that the guest may change while we read it. [`Virtqueue`] reads each
//! descriptor once, follows no more than [`queue::MAX_CHAIN`] of them, and refuses chains that leave RAM, have no
//! end, or mix what is to be read with what is to be written. A broken ring stops the device and shows
//! DEVICE_NEEDS_RESET; only the guest is harmed. One call of [`Worker::process`] serves at most as many requests as
//! a queue holds and then rings for itself, so that a busy device cannot starve the others.

mod balloon;
mod blk;
mod chain;
mod console;
mod device;
mod gather;
mod interrupt;
mod mem;
mod net;
mod pmem;
pub mod queue;
mod regs;
mod rng;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod throttle;
mod transport;
mod vhost_user;
mod vsock;

pub use crate::doorbell::{Doorbell, Worker};
pub use crate::pci::Connections;
pub use balloon::{Balloon, MemoryStatistics};
pub use blk::{Block, BlockSettings, Durability};
pub use chain::{Buffers, Chain};
pub use console::{Console, Input, PortBackend, PortConfig, ResizeOrder};
pub use device::{Kind, QueueResources, QueueState, Shared, VirtioDevice};
pub use gather::{Filled, Gather};
pub use interrupt::Interrupt;
pub use mem::{BLOCK as MEMORY_BLOCK, Memory};
pub use net::{MAX_FRAME, MacAddress, Net, NetBackend, NetConfig, Offloads, Sent, Throttles, VnetHeader};
pub use pmem::{Flush, Pmem};
pub use queue::{Outcome, RingError, Virtqueue};
pub use regs::feature;
pub use rng::Entropy;
pub use throttle::{Limits, Throttle};
pub use transport::VirtioPci;
#[cfg(test)]
pub(crate) use vhost_user::testing as testing_back_end;
pub use vhost_user::{VhostUser, VhostUserKind};
pub use vsock::{Gone, Vsock, VsockHost, VsockStream};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, also after a panic elsewhere: a device's state is checked wherever it is used.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Copies what a configuration space holds from `offset` into `data`; zeroes past its end.
fn read_config_bytes(config: &[u8], offset: u64, data: &mut [u8]) {
    let rest = usize::try_from(offset).ok().and_then(|at| config.get(at..)).unwrap_or_default();
    for (i, byte) in data.iter_mut().enumerate() {
        *byte = rest.get(i).copied().unwrap_or(0);
    }
}
