//! A device whose work another process does, by vhost-user: a disk, a network interface or a file system.
//!
//! The driver sees a device like any other, with the features that both it and the back end have. `ring.rs` says how
//! requests get to the back end, and [`viv_vhost`] how it is spoken with.
//!
//! # Life
//!
//! Queues run from DRIVER_OK to the reset, but for while the machine rests ([`VhostUser::rest`]), so that nothing of it
//! changes then. A queue that stops gives back what the back end has not begun; disks and file systems come to the end of
//! what they have begun. With a back end that is lost a disk or a file system fails every request ([`refusal`]), and an
//! interface asks to be reset, for good.
//!
//! # Saved state
//!
//! A disk's or interface's is where its rings are, and what it is. A file system's, the files that the guest has open, is the
//! back end's, so that a machine with one cannot be saved.

mod refusal;
mod regs;
mod ring;
mod state;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use viv_engine::GuestMemory;
use viv_engine::memory::{self, PageRecord};
use viv_vhost::{BackEnd, Error, Lost, PATIENCE, Region};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap};

use super::device::{Kind, QueueResources, QueueState, VirtioDevice};
use super::net::MacAddress;
use super::queue::RingError;
use super::{feature, read_config_bytes};
use crate::{DeviceError, SavedState};
use refusal::Refusal;
use regs::{block, file_system, net};
use ring::Ring;

/// Where the back end's rings are: past all addresses that a guest has.
const ROOM_START: u64 = 1 << 52;
/// The most queues of a disk, and of requests of a file system.
const MAX_QUEUES: u16 = 16;
/// How long a back end may take to come to the end of what it has begun, in all queues together: a slow disk's flush. Then
/// it has as long again as for any answer, to stop all of them.
const SETTLE: Duration = Duration::from_secs(30);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_micros(200);

/// What a back end is to the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VhostUserKind {
    /// A disk.
    Block,
    /// A network interface with this address.
    Net {
        /// It.
        mac: MacAddress,
    },
    /// A file system.
    FileSystem {
        /// The name by which the guest finds it, at most 36 bytes.
        tag: String,
    },
}

/// A virtio device that another process does the work of.
pub struct VhostUser {
    kind: VhostUserKind,
    back_end: BackEnd,
    /// What is offered to the driver.
    features: u64,
    config: Vec<u8>,
    rings: Vec<Option<Ring>>,
    /// The memory that the back end's rings are in.
    room: Arc<GuestMemory>,
    /// Whether the back end knows what the driver has chosen.
    is_set_up: bool,
    /// Whether the machine rests.
    rests: bool,
    /// Since when queues come to rest, one after the other.
    resting_since: Option<Instant>,
}

impl VhostUser {
    /// The most queues that a back end is asked for.
    pub const MAX_QUEUES: u16 = MAX_QUEUES + 1;

    /// A device of this kind.
    ///
    /// # Errors
    /// When the back end is of another kind, or lost, or the host gives no memory.
    pub fn new(kind: VhostUserKind, back_end: BackEnd) -> Result<Self, Error> {
        let offered = back_end.features();
        if offered & feature::VERSION_1 == 0 {
            return Err(Error::Lacks("version 1 of virtio"));
        }
        let most = back_end.queues();
        let (features, config, queues) = match &kind {
            VhostUserKind::Block => {
                block_config(offered & block::FEATURES, back_end.config(block::CONFIG_SIZE)?, most)
            }
            VhostUserKind::Net { mac } => {
                let mut config = Vec::from(*mac);
                config.extend(net::LINK_UP.to_le_bytes());
                (offered & net::FEATURES | net::MAC | net::STATUS, config, 2)
            }
            VhostUserKind::FileSystem { tag } => {
                let queues = most.clamp(2, Self::MAX_QUEUES);
                let mut config: Vec<u8> = tag.bytes().take(file_system::TAG).collect();
                config.resize(file_system::TAG, 0);
                config.extend(u32::from(queues.saturating_sub(1)).to_le_bytes());
                (0, config, queues)
            }
        };
        if most < queues {
            return Err(Error::Lacks("queues"));
        }
        let bytes = ring::ROOM.saturating_mul(queues.into());
        let room = memory::shared(ROOM_START, bytes)
            .map_err(|source| Error::Host { action: "make memory for a back end's rings", source })?;
        Ok(Self {
            kind,
            back_end,
            features,
            config,
            rings: std::iter::repeat_with(|| None).take(queues.into()).collect(),
            room: Arc::new(room),
            is_set_up: false,
            rests: false,
            resting_since: None,
        })
    }

    /// Becomes readable, with an edge each time, when [`VhostUser::process_called`] has something to do.
    #[must_use]
    pub fn called(&self) -> impl AsFd + Send + use<> {
        self.back_end.called()
    }

    /// A descriptor that shows a hang-up when [`VhostUser::process_loss`] has something to do.
    ///
    /// # Errors
    /// When this process has too many descriptors.
    pub fn hang_up(&self) -> Result<UnixStream, Error> {
        self.back_end.hang_up()
    }

    /// Gives back to the driver what the back end has used.
    pub fn process_called(&mut self) {
        let collected = self.rings.iter_mut().flatten().try_for_each(Ring::collect);
        self.check(collected);
    }

    /// The back end is lost: the driver is told, and why is returned.
    pub fn process_loss(&mut self) -> Lost {
        let why = self.back_end.lose(Lost::HungUp);
        self.break_down();
        why
    }

    /// Has the back end leave everything as it is, until [`VhostUser::go_on`].
    pub fn rest(&mut self) {
        for index in self.indices() {
            self.halt(index);
        }
        self.rests = true;
    }

    /// Has it work again.
    pub fn go_on(&mut self) {
        self.rests = false;
        for index in self.indices() {
            self.run(index);
        }
    }

    /// Has the back end serve a queue that is there.
    fn run(&mut self, index: u16) {
        let Some(ring) = self.rings.get_mut(usize::from(index)).and_then(Option::as_mut) else { return };
        if ring.runs() || self.rests {
            return;
        }
        self.resting_since = None;
        let started = self.back_end.start(index, ring.start());
        ring.ring();
        self.check(started);
    }

    /// Has the back end leave a queue alone. A disk or a file system comes to the end of what it has begun.
    fn halt(&mut self, index: u16) {
        let settles = !matches!(self.kind, VhostUserKind::Net { .. });
        let Some(ring) = self.rings.get_mut(usize::from(index)).and_then(Option::as_mut) else { return };
        if !ring.runs() {
            return;
        }
        let back_end = &self.back_end;
        let since = *self.resting_since.get_or_insert_with(Instant::now);
        let mut stop = || {
            if settles {
                settle(ring, back_end, since)?;
            }
            let left = SETTLE.saturating_add(PATIENCE).saturating_sub(since.elapsed());
            ring.stop(back_end.stop(index, left)?)
        };
        let stopped = stop();
        self.check(stopped);
    }

    /// What is wrong with the back end breaks the device.
    fn check(&mut self, done: Result<(), Lost>) {
        if let Err(why) = done {
            self.back_end.lose(why);
            self.break_down();
        }
    }

    fn break_down(&mut self) {
        self.rings.iter_mut().flatten().for_each(Ring::give_up);
    }

    fn indices(&self) -> std::ops::Range<u16> {
        0..u16::try_from(self.rings.len()).unwrap_or(u16::MAX)
    }
}

/// Waits until the back end has nothing of a queue any more, or has taken too long for it.
fn settle(ring: &mut Ring, back_end: &BackEnd, since: Instant) -> Result<(), Lost> {
    loop {
        ring.collect()?;
        if !ring.is_busy() || since.elapsed() > SETTLE {
            return Ok(());
        }
        if let Some(why) = back_end.lost() {
            return Err(why);
        }
        std::thread::sleep(LOOK);
    }
}

/// A disk's features, configuration space and number of queues, of what its back end has.
fn block_config(features: u64, mut config: Vec<u8>, most: u16) -> (u64, Vec<u8>, u16) {
    let told = match config.get(block::NUM_QUEUES..).and_then(<[u8]>::first_chunk) {
        Some(told) if features & block::MQ != 0 => u16::from_le_bytes(*told),
        _ => 1,
    };
    let queues = told.min(most).clamp(1, MAX_QUEUES);
    for (place, byte) in config.iter_mut().skip(block::NUM_QUEUES).zip(queues.to_le_bytes()) {
        *place = byte;
    }
    (features, config, queues)
}

/// Whether a back end is told of a part of guest memory: not of a file, which it could make shorter under this process. What
/// the guest asks with data there is refused.
fn is_told(region: &GuestRegionMmap<PageRecord>) -> bool {
    memory::record(region).is_machines()
}

/// The parts of guest memory and the back end's rings, as it is told.
fn regions(memory: &GuestMemory, room: &GuestMemory) -> Vec<Region> {
    let region = |region: &GuestRegionMmap<PageRecord>| {
        // All of it is in files.
        let file = region.file_offset()?.clone();
        Some(Region { start: region.start_addr().0, size: region.len(), file })
    };
    memory.iter().filter(|region| is_told(region)).chain(room.iter()).filter_map(region).collect()
}

impl VirtioDevice for VhostUser {
    fn kind(&self) -> Kind {
        match self.kind {
            VhostUserKind::Block => Kind { id: block::ID, class: block::CLASS },
            VhostUserKind::Net { .. } => Kind { id: net::ID, class: net::CLASS },
            VhostUserKind::FileSystem { .. } => Kind { id: file_system::ID, class: file_system::CLASS },
        }
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn ring_features(&self) -> u64 {
        self.back_end.features() & regs::RING | feature::RING_EVENT_IDX
    }

    fn queue_sizes(&self) -> Vec<u16> {
        let size = match self.kind {
            VhostUserKind::FileSystem { .. } => ring::FILE_SYSTEM_SIZE,
            VhostUserKind::Block | VhostUserKind::Net { .. } => ring::SIZE,
        };
        vec![size; self.rings.len()]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.config, offset, data);
    }

    fn start_queue(
        &mut self,
        resources: QueueResources,
        features: u64,
        state: QueueState,
    ) -> Result<(), RingError> {
        let index = resources.index;
        let start = ROOM_START.saturating_add(ring::ROOM.saturating_mul(index.into()));
        let memory = resources.memory.clone();
        let refusal = Refusal::of(&self.kind);
        let ring = Ring::new(resources, features, state, (self.room.clone(), start), refusal)?;
        let Some(slot) = self.rings.get_mut(usize::from(index)) else { return Ok(()) };
        *slot = Some(ring);
        if !self.is_set_up {
            // An interface's address and link are this side's.
            let theirs = features & !(net::MAC | net::STATUS | feature::RING_EVENT_IDX);
            let regions = regions(&memory, &self.room);
            let told = self.back_end.set_up(theirs, regions.into_iter());
            self.is_set_up = told.is_ok();
            self.check(told);
        }
        self.run(index);
        Ok(())
    }

    fn stop_queue(&mut self, index: u16) -> Option<QueueState> {
        self.halt(index);
        Some(self.rings.get_mut(usize::from(index))?.take()?.state())
    }

    fn process_queue(&mut self, index: u16) {
        let Some(ring) = self.rings.get_mut(usize::from(index)).and_then(Option::as_mut) else { return };
        if ring.forward() {
            self.back_end.kick(index);
        }
    }

    /// Handing requests on is less work than waking a thread for it.
    fn is_inline(&self) -> bool {
        true
    }

    fn reset(&mut self) {
        self.is_set_up = false;
    }

    fn save(&self) -> Result<SavedState, DeviceError> {
        self.save_state()
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        self.restore_state(state)
    }
}
