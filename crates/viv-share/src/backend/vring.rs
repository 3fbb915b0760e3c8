//! A ring of the device, and the threads that take requests from it in turn.
//!
//! One thread at a time waits for the guest; when it has a request it lets the next one wait, and serves. So a request goes
//! to a thread without a detour, and several are under way at once.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
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
    /// Nothing is under way any more.
    idle: Condvar,
    /// Held by the thread that waits for the guest.
    turn: Mutex<()>,
    /// Makes the thread that waits look at the state anew.
    look: OwnedFd,
}

#[derive(Debug)]
struct State {
    queue: Queue,
    memory: Arc<GuestMemoryMmap>,
    enabled: bool,
    /// Readable when the guest has put requests into the ring; without it the ring is stopped.
    kick: Option<Arc<File>>,
    /// Tells the guest that requests are served.
    call: Option<Arc<File>>,
    /// Requests under way.
    busy: usize,
}

impl Vring {
    /// A ring that is stopped.
    ///
    /// # Errors
    /// When the host gives no event.
    pub(super) fn new() -> io::Result<Self> {
        let state = State {
            queue: Queue::new(LARGEST_QUEUE).map_err(io::Error::other)?,
            memory: Arc::default(),
            enabled: false,
            kick: None,
            call: None,
            busy: 0,
        };
        Ok(Self {
            state: Mutex::new(state),
            idle: Condvar::new(),
            turn: Mutex::default(),
            look: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
        })
    }

    /// Waits for a request. The caller gives it back by [`Vring::done`].
    ///
    /// # Errors
    /// When the host does not wait.
    pub(super) fn next(&self) -> io::Result<Chain> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let kick = {
                let mut state = self.state();
                if let Some(chain) = state.pop() {
                    return Ok(chain);
                }
                state.kick.clone().filter(|_| state.enabled)
            };
            let mut fds = vec![PollFd::new(&self.look, PollFlags::IN)];
            fds.extend(kick.as_ref().map(|kick| PollFd::from_borrowed_fd(kick.as_fd(), PollFlags::IN)));
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            // A front end can give anything for an event.
            let unfit = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
            let broken = fds.get(1).is_some_and(|kick| kick.revents().intersects(unfit));
            let kicked = fds.get(1).is_some_and(|kick| kick.revents().contains(PollFlags::IN));
            // Nothing is there to be read if only the other is ready.
            let _ = rustix::io::read(&self.look, &mut [0; 8]);
            if let Some(kick) = kick.filter(|_| kicked || broken) {
                let mut count = [0; 8];
                let read =
                    if broken { Err(rustix::io::Errno::BADF) } else { rustix::io::read(&*kick, &mut count) };
                if !matches!(read, Ok(8) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR)) {
                    tracing::warn!("the front end's doorbell is no event; its ring stops");
                    self.state().kick = None;
                }
            }
        }
    }

    /// Gives a request back to the guest, with `length` bytes of an answer.
    pub(super) fn done(&self, head: u16, length: u32) {
        let mut state = self.state();
        let State { queue, memory, call, busy, .. } = &mut *state;
        *busy = busy.saturating_sub(1);
        let told = queue.add_used(&**memory, head, length).and_then(|()| queue.needs_notification(&**memory));
        match (told, call) {
            (Ok(true), Some(call)) => {
                // An event that is full has told already.
                let _ = rustix::io::write(&**call, &1_u64.to_ne_bytes());
            }
            (Ok(_), _) => {}
            (Err(error), _) => tracing::debug!(%error, "the ring takes no answer"),
        }
        if *busy == 0 {
            self.idle.notify_all();
        }
    }

    /// Lets no more requests begin, waits for those under way, and says which would be next.
    pub(super) fn stop(&self) -> u16 {
        let mut state = self.state();
        (state.kick, state.enabled) = (None, false);
        self.wake();
        while state.busy > 0 {
            state = self.idle.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let next = state.queue.next_avail();
        state.queue.set_ready(false);
        next
    }

    /// Begins to serve, by this doorbell.
    pub(super) fn start(&self, kick: File) {
        let mut state = self.state();
        state.queue.set_ready(true);
        state.kick = Some(Arc::new(kick));
        self.wake();
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

    pub(super) fn set_event_idx(&self, on: bool) {
        self.state().queue.set_event_idx(on);
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

    fn wake(&self) {
        // One that is full wakes as well.
        let _ = rustix::io::write(&self.look, &1_u64.to_ne_bytes());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The next request, if the ring runs and has one.
    fn pop(&mut self) -> Option<Chain> {
        if self.kick.is_none() || !self.enabled || !self.queue.ready() {
            return None;
        }
        let mut chain = self.queue.pop_descriptor_chain(self.memory.clone());
        // Requests that come from here on are told of only if the guest knows that somebody waits. Those that came before may
        // not be, and are taken now; where there are none all the same, the ring is none.
        if chain.is_none() && self.queue.enable_notification(&*self.memory).is_ok_and(|more| more) {
            chain = self.queue.pop_descriptor_chain(self.memory.clone());
        }
        self.busy = self.busy.saturating_add(usize::from(chain.is_some()));
        chain
    }
}
