//! Threads that call a disk.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::event::EventfdFlags;

use super::{Aio, Completion, Operation, Request};
use crate::direct::Aligned;
use crate::{Disk, DiskError};

/// How many threads a disk has. They mostly wait; more of them do not make one disk faster.
const THREADS: usize = 4;

/// How much is moved between disk and guest memory at a time.
pub(super) const BUFFER: usize = 256 << 10;

/// A few threads, and the requests that they have.
pub(super) struct Pool {
    shared: Arc<Shared>,
    started: Vec<Request>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    disk: Arc<dyn Disk>,
    state: Mutex<State>,
    submitted: Condvar,
    ended: Condvar,
    event: OwnedFd,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Request>,
    /// How many a thread is at.
    running: usize,
    ended: Vec<Completion>,
    over: bool,
}

impl Pool {
    pub(super) fn start(disk: Arc<dyn Disk>) -> io::Result<Self> {
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let (state, submitted, ended) = Default::default();
        let shared = Arc::new(Shared { disk, state, submitted, ended, event });
        let mut pool = Self { shared, started: Vec::new(), threads: Vec::new() };
        for _ in 0..THREADS {
            let shared = Arc::clone(&pool.shared);
            pool.threads
                .push(std::thread::Builder::new().name("disk-io".into()).spawn(move || shared.work())?);
        }
        Ok(pool)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut buffer = Aligned::new(BUFFER);
        let mut state = self.lock();
        loop {
            let Some(request) = state.waiting.pop_front() else {
                if state.over {
                    return;
                }
                state = self.submitted.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.running = state.running.saturating_add(1);
            drop(state);
            let result = perform(&*self.disk, &request, &mut buffer);
            state = self.lock();
            state.running = state.running.saturating_sub(1);
            state.ended.push(Completion { tag: request.tag, result });
            if state.ended.len() == 1 {
                // It fails only when the counter is full, and then the eventfd is readable as it should be.
                let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
            }
            self.ended.notify_all();
        }
    }
}

impl Aio for Pool {
    fn start(&mut self, request: Request) {
        self.started.push(request);
    }

    fn submit(&mut self) -> io::Result<()> {
        let count = self.started.len();
        if count > 0 {
            self.shared.lock().waiting.extend(self.started.drain(..));
            (0..count.min(THREADS)).for_each(|_| self.shared.submitted.notify_one());
        }
        Ok(())
    }

    fn take_ended(&mut self, ended: &mut Vec<Completion>) {
        let mut state = self.shared.lock();
        if !state.ended.is_empty() {
            let _ = rustix::io::read(&self.shared.event, &mut [0; 8]);
            ended.append(&mut state.ended);
        }
    }

    fn wait(&mut self) -> io::Result<()> {
        self.submit()?;
        let mut state = self.shared.lock();
        while state.ended.is_empty() && (state.running > 0 || !state.waiting.is_empty()) {
            state = self.shared.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    fn ended_fd(&self) -> BorrowedFd<'_> {
        self.shared.event.as_fd()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().over = true;
        self.shared.submitted.notify_all();
        for thread in self.threads.drain(..) {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// Does what a request asks, by calls that block.
pub(super) fn perform(disk: &dyn Disk, request: &Request, buffer: &mut Aligned) -> Result<(), DiskError> {
    let Request { operation, offset, length, ref data, .. } = *request;
    match operation {
        Operation::Read => data.steps(BUFFER, |step, done| {
            let buffer = buffer.first(step.length());
            disk.read_at(offset.saturating_add(done), buffer)?;
            step.write(buffer)
        }),
        Operation::Write { durable } => {
            data.steps(BUFFER, |step, done| {
                let buffer = buffer.first(step.length());
                step.read(buffer)?;
                disk.write_at(offset.saturating_add(done), buffer)
            })?;
            if durable { disk.flush() } else { Ok(()) }
        }
        Operation::Flush => disk.flush(),
        Operation::Discard => disk.discard(offset, length),
        Operation::WriteZeroes { may_unmap, durable } => {
            disk.write_zeroes(offset, length, may_unmap)?;
            if durable { disk.flush() } else { Ok(()) }
        }
    }
}
