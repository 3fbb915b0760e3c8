//! Bytes from the host to a device.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::event::PollFlags;
use viv_jail::ThreadKind;

use super::{CAPACITY, wait_ready};
use crate::machine::notify::Notify;

/// Reads a descriptor from a thread, ahead of the device by a bounded amount.
#[derive(Debug)]
pub(crate) struct Inlet {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What [`Inlet::peek`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Received {
    /// These bytes, at least one.
    Bytes(Vec<u8>),
    /// Nothing at the moment.
    Nothing,
    /// Nothing any more.
    End,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    stop: Notify,
    /// Set when something has come, or the end.
    wake: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    buffer: VecDeque<u8>,
    ended: bool,
    stopping: bool,
}

impl Inlet {
    /// Starts to read `fd`. `wake` is set when something has come, or the end.
    pub(crate) fn start(fd: OwnedFd, wake: Arc<Notify>) -> io::Result<Self> {
        let shared =
            Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), stop: Notify::new()?, wake });
        let thread = viv_jail::spawn(ThreadKind::Stream, "stream-in", {
            let shared = Arc::clone(&shared);
            move || shared.run(&fd)
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// What has come, at most `limit` bytes of it, left in place until [`Inlet::consume`].
    pub(crate) fn peek(&self, limit: usize) -> Received {
        let state = self.shared.lock();
        if !state.buffer.is_empty() {
            Received::Bytes(state.buffer.iter().copied().take(limit).collect())
        } else if state.ended {
            Received::End
        } else {
            Received::Nothing
        }
    }

    /// Forgets the first `count` bytes.
    pub(crate) fn consume(&self, count: usize) {
        let mut state = self.shared.lock();
        let count = count.min(state.buffer.len());
        state.buffer.drain(..count);
        self.shared.changed.notify_all();
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.changed.notify_all();
        self.shared.stop.set();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self, fd: &OwnedFd) {
        let mut bytes = vec![0; 4096];
        while self.wait_for_room() {
            let read = match wait_ready(fd.as_fd(), PollFlags::IN, &self.stop) {
                Ok(true) => rustix::io::read(fd, &mut bytes),
                Ok(false) => return,
                Err(_) => Ok(0),
            };
            let mut state = self.lock();
            match read {
                Ok(count) if count > 0 => {
                    state.buffer.extend(bytes.get(..count).unwrap_or_default());
                }
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => continue,
                // A terminal that hung up reports an error: there is no more input from either.
                Ok(_) | Err(_) => state.ended = true,
            }
            let ended = state.ended;
            drop(state);
            self.wake.set();
            if ended {
                return;
            }
        }
    }

    /// Waits until there is room for a read. False when it is time to stop.
    fn wait_for_room(&self) -> bool {
        let mut state = self.lock();
        while !state.stopping && state.buffer.len() >= CAPACITY {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !state.stopping
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
