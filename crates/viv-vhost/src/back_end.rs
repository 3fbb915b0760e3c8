//! What is asked of a back end.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::FileOffset;

use crate::error::{Error, Lost};
use crate::event::Event;
use crate::link::Link;

/// How long a back end may take for an answer. It has nothing to do for most; to stop a ring it comes to the end of what it
/// has begun.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What is made use of if a back end has it: more rings than one, answers to all messages, a configuration space.
const WANTED: VhostUserProtocolFeatures = VhostUserProtocolFeatures::MQ
    .union(VhostUserProtocolFeatures::REPLY_ACK)
    .union(VhostUserProtocolFeatures::CONFIG);

/// How many queues a back end has that does not say so: those of the simplest device of each kind.
const FEW_QUEUES: u16 = 2;

/// The bit of [`BackEnd::features`] that is the protocol's, not a device's.
const PROTOCOL_FEATURES: u64 = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();

/// Where guest memory begins in what a back end takes for this process's addresses. They are only compared with each
/// other, so that there is no need to tell it the real ones.
const USER_BASE: u64 = 1 << 46;

/// The process that does the work of a device. To be called on any thread, by one at a time.
pub struct BackEnd {
    link: Link,
    features: u64,
    protocol: VhostUserProtocolFeatures,
    queues: u16,
    /// Tells the back end that there is something in a ring, one for each.
    kicks: Vec<Arc<Event>>,
    /// Tells that the back end has used something of any ring.
    call: Arc<Event>,
    memory_told: bool,
}

/// A part of guest memory.
#[derive(Debug, Clone)]
pub struct Region {
    /// Its guest-physical address.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// The file that it is in, and where.
    pub file: FileOffset,
}

/// Where a ring is, by guest-physical addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingPlace {
    /// How many descriptors it has.
    pub size: u16,
    /// The table of descriptors.
    pub descriptors: u64,
    /// The ring of what is available to the back end.
    pub available: u64,
    /// The ring of what it has used.
    pub used: u64,
}

impl BackEnd {
    /// Begins a conversation over `socket`. The back end may have `queues` at most, and takes no longer than `patience` for an
    /// answer.
    ///
    /// # Errors
    /// When it does not speak vhost-user, or the host gives no thread or descriptor.
    pub fn connect(socket: UnixStream, queues: u16, patience: Duration) -> Result<Self, Error> {
        let link = Link::start(socket, patience).map_err(Error::host("start a back end's thread"))?;
        let (features, protocol, offered) = link.ask("say what it can do", introduce)?;
        let queues = queues.min(offered.map_or(FEW_QUEUES, |count| u16::try_from(count).unwrap_or(u16::MAX)));
        let event = || Event::new().map(Arc::new).map_err(Error::host("make an eventfd"));
        let kicks = (0..queues).map(|_| event()).collect::<Result<_, _>>()?;
        Ok(Self { link, features, protocol, queues, kicks, call: event()?, memory_told: false })
    }

    /// The features of virtio that it offers.
    #[must_use]
    pub fn features(&self) -> u64 {
        self.features & !PROTOCOL_FEATURES
    }

    /// How many queues it can have, as far as they are wanted.
    #[must_use]
    pub fn queues(&self) -> u16 {
        self.queues
    }

    /// The first `size` bytes of its configuration space.
    ///
    /// # Errors
    /// When it has none, or is lost.
    pub fn config(&self, size: u16) -> Result<Vec<u8>, Error> {
        if !self.protocol.contains(VhostUserProtocolFeatures::CONFIG) {
            return Err(Error::Lacks("a configuration space"));
        }
        let read = move |frontend: &mut Frontend| {
            let room = vec![0; size.into()];
            let answer = frontend.get_config(0, size.into(), VhostUserConfigFlags::empty(), &room)?;
            Ok(answer.1)
        };
        let mut config = self.link.ask("read its configuration", read)?;
        config.resize(size.into(), 0);
        Ok(config)
    }

    /// Tells it what the driver has chosen of its features, and where guest memory is.
    ///
    /// # Errors
    /// When it is lost.
    pub fn set_up(&mut self, features: u64, memory: impl Iterator<Item = Region>) -> Result<(), Lost> {
        let features = (features & self.features) | (self.features & PROTOCOL_FEATURES);
        let memory: Vec<_> = if self.memory_told { Vec::new() } else { memory.collect() };
        self.link.ask("take over features and memory", move |frontend| {
            frontend.set_features(features)?;
            if memory.is_empty() {
                return Ok(());
            }
            let regions: Vec<_> = memory.iter().map(describe).collect();
            frontend.set_mem_table(&regions).map(drop)
        })?;
        self.memory_told = true;
        Ok(())
    }

    /// Has it serve ring `index`, in which nothing has been used yet.
    ///
    /// # Errors
    /// When it is lost.
    pub fn start(&self, index: u16, place: RingPlace) -> Result<(), Lost> {
        let Some(kick) = self.kicks.get(usize::from(index)).cloned() else {
            return Err(self.lose(Lost::Ring("it has fewer")));
        };
        let call = self.call.clone();
        let enables = self.features & PROTOCOL_FEATURES != 0;
        self.link.ask("start a ring", move |frontend| {
            let index = usize::from(index);
            frontend.set_vring_num(index, place.size)?;
            frontend.set_vring_base(index, 0)?;
            let addresses = VringConfigData {
                queue_max_size: place.size,
                queue_size: place.size,
                flags: 0,
                desc_table_addr: user_address(place.descriptors),
                used_ring_addr: user_address(place.used),
                avail_ring_addr: user_address(place.available),
                log_addr: None,
            };
            frontend.set_vring_addr(index, &addresses)?;
            frontend.set_vring_call(index, call.inner())?;
            frontend.set_vring_kick(index, kick.inner())?;
            if enables { frontend.set_vring_enable(index, true) } else { Ok(()) }
        })
    }

    /// Has it leave ring `index` alone, and gives the position up to which it has taken what was available. It may take as
    /// long as for any answer, but no longer than `patience`.
    ///
    /// # Errors
    /// When it is lost.
    pub fn stop(&self, index: u16, patience: Duration) -> Result<u16, Lost> {
        let stop = move |frontend: &mut Frontend| frontend.get_vring_base(index.into());
        let base = self.link.ask_within(patience, "stop a ring", stop)?;
        u16::try_from(base).map_err(|_| self.lose(Lost::Ring("it stopped at no position")))
    }

    /// Tells it that there is something in ring `index`.
    pub fn kick(&self, index: u16) {
        if let Some(kick) = self.kicks.get(usize::from(index)) {
            kick.set();
        }
    }

    /// Becomes readable, with an edge each time, when it has used something of a ring.
    #[must_use]
    pub fn called(&self) -> impl AsFd + Send + use<> {
        Called(Arc::clone(&self.call))
    }

    /// A descriptor that shows a hang-up when the back end has hung up, or is lost.
    ///
    /// # Errors
    /// When this process has too many descriptors.
    pub fn hang_up(&self) -> Result<UnixStream, Error> {
        self.link.socket().try_clone().map_err(Error::host("duplicate a back end's socket"))
    }

    /// Gives it up. The first reason stays, and is what is answered.
    pub fn lose(&self, why: Lost) -> Lost {
        self.link.lose(why)
    }

    /// Why it is of no more use, if it is not.
    #[must_use]
    pub fn lost(&self) -> Option<Lost> {
        self.link.lost()
    }
}

/// The eventfd by which a back end tells of what it has used.
struct Called(Arc<Event>);

impl AsFd for Called {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Begins a conversation, and finds what the other can do: its features, what it has of the protocol, how many queues it can
/// have if it tells.
fn introduce(frontend: &mut Frontend) -> vhost::Result<(u64, VhostUserProtocolFeatures, Option<u64>)> {
    frontend.set_owner()?;
    let features = frontend.get_features()?;
    if features & PROTOCOL_FEATURES == 0 {
        return Ok((features, VhostUserProtocolFeatures::empty(), None));
    }
    let protocol = frontend.get_protocol_features()? & WANTED;
    frontend.set_protocol_features(protocol)?;
    if protocol.contains(VhostUserProtocolFeatures::REPLY_ACK) {
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    }
    let queues = match protocol.contains(VhostUserProtocolFeatures::MQ) {
        true => Some(frontend.get_queue_num()?),
        false => None,
    };
    Ok((features, protocol, queues))
}

fn describe(region: &Region) -> VhostUserMemoryRegionInfo {
    VhostUserMemoryRegionInfo {
        guest_phys_addr: region.start,
        memory_size: region.size,
        userspace_addr: user_address(region.start),
        mmap_offset: region.file.start(),
        mmap_handle: region.file.file().as_raw_fd(),
    }
}

fn user_address(guest: u64) -> u64 {
    USER_BASE.wrapping_add(guest)
}
