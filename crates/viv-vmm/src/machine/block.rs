//! A virtio disk's own thread: what it waits for.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use viv_devices::virtio::{Block, BlockSettings, Durability, Limits};
use viv_disk::{Disk, aio};
use viv_engine::Clock;

use super::limits;
use super::reactor::Source;
use crate::config::{CacheMode, DiskTuning, default_queues};
use crate::error::MachineError;

/// A disk, with what its thread waits for besides its doorbell.
pub(crate) struct DiskThread {
    pub(crate) block: Arc<Mutex<Block>>,
    pub(crate) sources: Vec<Box<dyn Source>>,
}

impl DiskThread {
    /// Disk `index` of a machine with so many vCPUs.
    pub(crate) fn new(
        index: usize,
        disk: Box<dyn Disk>,
        tuning: &DiskTuning,
        vcpus: u32,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, MachineError> {
        let disk: Arc<dyn Disk> = Arc::from(disk);
        let aio = aio::open(disk.clone(), tuning.aio.into())?;
        let limits = Limits { requests: tuning.iops, bytes: tuning.bps };
        let timer = limits::timer(limits, clock)?;
        let throttle = timer.as_ref().map(|timer| timer.throttle(limits));
        let block = Block::new(
            &disk,
            aio,
            BlockSettings {
                serial: serial(index, tuning),
                queues: tuning.queues.unwrap_or_else(|| default_queues(vcpus)),
                durability: match tuning.cache {
                    CacheMode::Writeback | CacheMode::None => Durability::AsAsked,
                    CacheMode::Writethrough => Durability::Always,
                    CacheMode::Unsafe => Durability::Never,
                },
                throttle,
            },
        );
        let ended = block.ended_fd().map_err(MachineError::host("duplicate a disk's descriptor"))?;
        let block = Arc::new(Mutex::new(block));
        let mut sources: Vec<Box<dyn Source>> =
            vec![Box::new(Ended { block: Arc::clone(&block), fd: ended })];
        if let Some(timer) = timer {
            let block = Arc::clone(&block);
            sources.push(timer.source(move || lock(&block).resume()));
        }
        Ok(Self { block, sources })
    }
}

/// Locks a disk, also after a panic elsewhere: its state is checked wherever it is used.
pub(crate) fn lock(block: &Mutex<Block>) -> MutexGuard<'_, Block> {
    block.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The serial number of disk `index`.
pub(crate) fn serial(index: usize, tuning: &DiskTuning) -> String {
    tuning.serial.clone().unwrap_or_else(|| format!("viv-disk{index}"))
}

/// Requests that came to their ends.
struct Ended {
    block: Arc<Mutex<Block>>,
    fd: OwnedFd,
}

impl Source for Ended {
    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn ready(&mut self) {
        lock(&self.block).process_ended();
    }
}
