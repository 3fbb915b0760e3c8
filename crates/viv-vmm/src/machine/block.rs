//! A virtio disk's own thread: what it waits for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use viv_devices::virtio::{Block, BlockSettings, Durability, Limits, Throttle};
use viv_disk::{Disk, aio};
use viv_engine::{Clock, Timer};

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
        let timer = match limits == Limits::default() {
            true => None,
            false => Some(Arc::new(LimitTimer::new(clock).map_err(MachineError::host("make a timerfd"))?)),
        };
        let throttle = timer.as_ref().map(|timer| Throttle::new(limits, clock.clone(), timer.clone()));
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
            sources.push(Box::new(Due { block: Arc::clone(&block), timer }));
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

/// The time at which a disk's limits let more through.
struct Due {
    block: Arc<Mutex<Block>>,
    timer: Arc<LimitTimer>,
}

impl Source for Due {
    fn fd(&self) -> BorrowedFd<'_> {
        self.timer.timerfd.as_fd()
    }

    fn ready(&mut self) {
        let _ = rustix::io::read(&self.timer.timerfd, &mut [0; 8]);
        lock(&self.block).resume();
    }
}

/// An alarm in guest time. While that stands still it may ring early, and the disk sets it again.
struct LimitTimer {
    clock: Arc<dyn Clock>,
    timerfd: OwnedFd,
}

impl LimitTimer {
    fn new(clock: &Arc<dyn Clock>) -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timerfd = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self { clock: clock.clone(), timerfd })
    }

    /// Rings in so many nanoseconds; 0 is never.
    fn set(&self, nanoseconds: u64) {
        let value = Timespec {
            tv_sec: i64::try_from(nanoseconds / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(nanoseconds % 1_000_000_000).unwrap_or(0),
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        // It cannot fail: the descriptor is a timerfd and the time is normalised.
        let _ = rustix::time::timerfd_settime(&self.timerfd, TimerfdTimerFlags::empty(), &once);
    }
}

impl Timer for LimitTimer {
    fn arm(&self, deadline: u64) {
        self.set(deadline.saturating_sub(self.clock.now()).max(1));
    }

    fn disarm(&self) {
        self.set(0);
    }
}
