//! A ring of the device, and the threads that take requests from it in turn.
//!
//! All threads wait for the guest at one place, and it wakes one of them, which has the request and serves it. Only when the
//! ring has more it wakes another. So a request goes to a thread without a detour, one that comes while another is served
//! does not wait for that, and requests that come one after the other are no work for more than one thread.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use vhost::vhost_user::{Error, Result};
use virtio_queue::{DescriptorChain, Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryMmap};

/// The most descriptors in a ring.
pub(super) const LARGEST_QUEUE: u16 = 1024;

/// A request of the guest, as a chain of descriptors.
pub(super) type Chain = DescriptorChain<Arc<GuestMemoryMmap>>;

/// Where a ring's parts are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Addresses {
    pub(super) descriptors: GuestAddress,
    pub(super) available: GuestAddress,
    pub(super) used: GuestAddress,
}

/// A ring of the device.
#[derive(Debug)]
pub(super) struct Vring {
    state: Mutex<State>,
    /// Nothing of a ring that is stopped is under way any more.
    idle: Condvar,
    /// Where threads wait, each event for one of them.
    events: OwnedFd,
    /// An event that makes a thread look at the ring anew.
    look: OwnedFd,
}

#[derive(Debug)]
struct State {
    queue: Queue,
    memory: Arc<GuestMemoryMmap>,
    enabled: bool,
    /// Written to when the guest has put requests into the ring; without it the ring is stopped.
    kick: Option<File>,
    /// Tells the guest that requests are served.
    call: Option<Arc<File>>,
    /// Requests under way.
    busy: usize,
}

impl Vring {
    /// A ring that is stopped.
    ///
    /// # Errors
    /// When the host gives no events.
    pub(super) fn new() -> io::Result<Self> {
        let state = State {
            queue: Queue::new(LARGEST_QUEUE).map_err(io::Error::other)?,
            memory: Arc::default(),
            enabled: false,
            kick: None,
            call: None,
            busy: 0,
        };
        let events = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let look = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        watch(&events, &look)?;
        Ok(Self { state: Mutex::new(state), idle: Condvar::new(), events, look })
    }

    /// Waits for a request. The caller gives it back by [`Vring::done`].
    ///
    /// # Errors
    /// When the host does not wait.
    pub(super) fn next(&self) -> io::Result<Chain> {
        let mut event = [epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }];
        loop {
            if let Some(chain) = self.take() {
                return Ok(chain);
            }
            match epoll::wait(&self.events, &mut event, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// The next request, if there is one.
    fn take(&self) -> Option<Chain> {
        let mut state = self.state();
        let chain = state.pop();
        let has_more = chain.is_some() && state.has_more();
        drop(state);
        if has_more {
            self.wake();
        }
        chain
    }

    /// Gives a request back to the guest, with `length` bytes of an answer.
    pub(super) fn done(&self, head: u16, length: u32) {
        // The guest may go on at once, with the next request, which another thread takes from the ring.
        if let Some(call) = self.give_back(head, length) {
            // An event that is full has told already.
            let _ = rustix::io::write(&*call, &1_u64.to_ne_bytes());
        }
    }

    /// Puts a request into the ring of those that are served. Returns how the guest is told, if it wants to be.
    fn give_back(&self, head: u16, length: u32) -> Option<Arc<File>> {
        let mut state = self.state();
        let State { queue, memory, call, busy, kick, .. } = &mut *state;
        *busy = busy.saturating_sub(1);
        if *busy == 0 && kick.is_none() {
            self.idle.notify_all();
        }
        let told = queue.add_used(&**memory, head, length).and_then(|()| queue.needs_notification(&**memory));
        match told {
            Ok(wanted) => call.clone().filter(|_| wanted),
            Err(error) => {
                tracing::debug!(%error, "the ring takes no answer");
                None
            }
        }
    }

    /// Lets no more requests begin, waits for those under way, and says which would be next.
    pub(super) fn stop(&self) -> u16 {
        let mut state = self.state();
        self.unwatch(state.kick.take());
        state.enabled = false;
        while state.busy > 0 {
            state = self.idle.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let next = state.queue.next_avail();
        state.queue.set_ready(false);
        next
    }

    /// Begins to serve, by this doorbell.
    ///
    /// # Errors
    /// When it is nothing that can be waited for.
    pub(super) fn start(&self, kick: File) -> io::Result<()> {
        let mut state = self.state();
        self.unwatch(state.kick.take());
        watch(&self.events, &kick)?;
        state.queue.set_ready(true);
        state.kick = Some(kick);
        self.wake();
        Ok(())
    }

    pub(super) fn set_enabled(&self, enabled: bool) {
        self.state().enabled = enabled;
        self.wake();
    }

    pub(super) fn set_call(&self, call: Option<File>) {
        self.state().call = call.map(Arc::new);
    }

    pub(super) fn set_memory(&self, memory: Arc<GuestMemoryMmap>) {
        self.state().memory = memory;
    }

    pub(super) fn set_size(&self, size: u16) -> Result<()> {
        self.state().queue.try_set_size(size).map_err(|_| Error::InvalidParam)
    }

    /// The index of the next request. The last that was answered is the one before: when a ring is stopped, none is under way.
    pub(super) fn set_base(&self, base: u16) {
        let mut state = self.state();
        state.queue.set_next_avail(base);
        state.queue.set_next_used(base);
    }

    pub(super) fn set_addresses(&self, addresses: Addresses) -> Result<()> {
        let mut state = self.state();
        let queue = &mut state.queue;
        queue
            .try_set_desc_table_address(addresses.descriptors)
            .and_then(|()| queue.try_set_avail_ring_address(addresses.available))
            .and_then(|()| queue.try_set_used_ring_address(addresses.used))
            .map_err(|_| Error::InvalidParam)
    }

    /// Makes one thread look at the ring.
    fn wake(&self) {
        // One that is full has woken one already.
        let _ = rustix::io::write(&self.look, &1_u64.to_ne_bytes());
    }

    /// Forgets a doorbell. The front end has it still, so that closing it here is not enough.
    fn unwatch(&self, kick: Option<File>) {
        if let Some(kick) = kick {
            // It was watched.
            let _ = epoll::delete(&self.events, &kick);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has each write to `source` be an event of its own, whose count nobody has to read.
fn watch(events: &OwnedFd, source: impl AsFd) -> io::Result<()> {
    Ok(epoll::add(events, source, EventData::new_u64(0), EventFlags::IN | EventFlags::ET)?)
}

impl State {
    /// The next request, if the ring runs and has one.
    fn pop(&mut self) -> Option<Chain> {
        if self.kick.is_none() || !self.enabled || !self.queue.ready() {
            return None;
        }
        // The guest tells of every request: it is never asked not to.
        let chain = self.queue.pop_descriptor_chain(self.memory.clone());
        self.busy = self.busy.saturating_add(usize::from(chain.is_some()));
        chain
    }

    /// Whether the ring has another request.
    fn has_more(&self) -> bool {
        let end = self.queue.avail_idx(&*self.memory, Ordering::Acquire);
        end.is_ok_and(|end| end.0 != self.queue.next_avail())
    }
}
