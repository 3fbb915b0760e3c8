//! From the processors' threads to the one that serves devices.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::event::EventfdFlags;

/// How many queues a doorbell can tell apart.
pub(crate) const MAX_QUEUES: usize = 64;

/// The queues of a device (of a disk controller: its ports) that want to be served, and an eventfd that is readable
/// while there are any.
#[derive(Debug)]
pub struct Doorbell {
    pending: AtomicU64,
    event: OwnedFd,
}

impl Doorbell {
    /// A silent one.
    ///
    /// # Errors
    /// When the host gives no eventfd.
    pub fn new() -> std::io::Result<Self> {
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { pending: AtomicU64::new(0), event })
    }

    /// Asks for queue `index`, 0 to 63, to be served.
    pub fn ring(&self, index: u16) {
        let queue = 1_u64.checked_shl(u32::from(index)).unwrap_or(0);
        if queue != 0 && self.pending.fetch_or(queue, Ordering::AcqRel) == 0 {
            // It fails only when the counter is full, and then the eventfd is readable as it should be.
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }

    /// Takes the queues that rang.
    fn take(&self) -> impl Iterator<Item = u16> + use<> {
        // The eventfd first: who rings after the swap finds nothing pending and signals again.
        let _ = rustix::io::read(&self.event, &mut [0_u8; 8]);
        let pending = self.pending.swap(0, Ordering::AcqRel);
        (0..MAX_QUEUES as u16).filter(move |&index| pending & (1 << index) != 0)
    }

    /// Forgets who rang.
    pub(crate) fn clear(&self) {
        self.take().for_each(drop);
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// What is behind a doorbell.
pub(crate) trait Serve: Send + Sync {
    /// Does what there is to do for queue `index`. It may find nothing.
    fn serve(&self, index: u16);
}

/// What the thread for devices needs of a device: wait until its eventfd is readable (level-triggered will
/// do), call [`Worker::process`]. Clones are handles to the same device.
#[derive(Clone)]
pub struct Worker {
    device: Arc<dyn Serve>,
    doorbell: Arc<Doorbell>,
}

impl Worker {
    pub(crate) fn new(device: Arc<dyn Serve>, doorbell: Arc<Doorbell>) -> Self {
        Self { device, doorbell }
    }

    /// Serves every queue that rang since the last call.
    pub fn process(&self) {
        for index in self.doorbell.take() {
            self.device.serve(index);
        }
    }

    /// Rings for every queue, as for those of a device that was restored.
    #[cfg(test)]
    pub(crate) fn ring_all(&self) {
        (0..MAX_QUEUES as u16).for_each(|index| self.doorbell.ring(index));
    }
}

impl AsFd for Worker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.doorbell.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec};

    use super::*;

    fn is_readable(bell: &Doorbell) -> bool {
        let mut fds = [PollFd::new(bell, PollFlags::IN)];
        rustix::event::poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    }

    #[test]
    fn it_is_readable_while_someone_waits() {
        let bell = Doorbell::new().unwrap();
        assert!(!is_readable(&bell));
        for index in [63, 0, 63, 64, u16::MAX] {
            bell.ring(index);
        }
        assert!(is_readable(&bell));
        assert_eq!(bell.take().collect::<Vec<_>>(), [0, 63]);
        assert!(!is_readable(&bell) && bell.take().next().is_none());
    }
}
