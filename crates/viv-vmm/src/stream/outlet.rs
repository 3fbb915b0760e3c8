//! Bytes from a device to the host.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::event::PollFlags;
use viv_jail::ThreadKind;

use super::{CAPACITY, wait_ready};
use crate::machine::notify::Notify;

/// How much is written at once: what a pipe that is ready takes without blocking (PIPE_BUF).
const CHUNK: usize = 4096;

/// Takes bytes without blocking and writes them to a descriptor from a thread. Dropped, it forgets what is not
/// written yet.
#[derive(Debug)]
pub(crate) struct Outlet {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    stop: Notify,
    /// Set when the buffer has room again after it was full, and when the reader has gone.
    wake: Arc<Notify>,
    /// Set when everything is written.
    drained: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    buffer: VecDeque<u8>,
    /// Bytes taken from the buffer and not written yet.
    in_flight: usize,
    /// A writer was turned away.
    was_full: bool,
    /// The descriptor takes no more.
    gone: bool,
    stopping: bool,
}

impl Outlet {
    /// Starts to write to `fd`.
    ///
    /// `wake` is set when there is room again after [`Outlet::write`] has taken less than it was given, and
    /// when the reader goes; `drained` whenever all that was taken is written.
    pub(crate) fn start(fd: OwnedFd, wake: Arc<Notify>, drained: Arc<Notify>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            stop: Notify::new()?,
            wake,
            drained,
        });
        let thread = viv_jail::spawn(ThreadKind::Stream, "stream-out", {
            let shared = Arc::clone(&shared);
            move || shared.run(&fd)
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Takes as many of `bytes` as there is room for and says how many. What comes after the reader has gone
    /// is taken and dropped.
    pub(crate) fn write(&self, bytes: &[u8]) -> usize {
        let mut state = self.shared.lock();
        if state.gone {
            return bytes.len();
        }
        let room = CAPACITY.saturating_sub(state.buffer.len());
        let taken = bytes.get(..room).unwrap_or(bytes);
        state.buffer.extend(taken);
        state.was_full |= taken.len() < bytes.len();
        self.shared.changed.notify_all();
        taken.len()
    }

    /// Whether the reader has gone.
    pub(crate) fn is_gone(&self) -> bool {
        self.shared.lock().gone
    }

    /// Whether everything that was taken is written, or never will be.
    pub(crate) fn is_drained(&self) -> bool {
        let state = self.shared.lock();
        state.gone || (state.buffer.is_empty() && state.in_flight == 0)
    }
}

impl Drop for Outlet {
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
        while let Some(chunk) = self.next_chunk() {
            let written = self.write_all(fd, &chunk);
            let mut state = self.lock();
            state.in_flight = 0;
            state.gone |= written.is_err();
            if state.gone {
                state.buffer.clear();
            }
            if state.gone || (state.was_full && state.buffer.len() <= CAPACITY / 2) {
                state.was_full = false;
                self.wake.set();
            }
            if state.buffer.is_empty() {
                self.drained.set();
            }
            if state.gone {
                return;
            }
        }
    }

    /// Waits for something to write; `None` when it is time to stop.
    fn next_chunk(&self) -> Option<Vec<u8>> {
        let mut state = self.lock();
        loop {
            if state.stopping {
                return None;
            }
            if !state.buffer.is_empty() {
                let length = state.buffer.len().min(CHUNK);
                let chunk: Vec<u8> = state.buffer.drain(..length).collect();
                state.in_flight = length;
                return Some(chunk);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn write_all(&self, fd: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if !wait_ready(fd.as_fd(), PollFlags::OUT, &self.stop)? {
                return Ok(());
            }
            match rustix::io::write(fd, bytes) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
