//! The requests that run: from what a chain asks to what the disk is asked, and back.

use std::io;

use viv_disk::aio::{Aio, Completion, DEPTH, Operation, Request, Scatter};

use super::regs::status;
use super::request::{Asked, Reader, Work};
use crate::virtio::chain::{Buffers, Chain};
use crate::virtio::queue::{Outcome, RingError};
use crate::virtio::throttle::Throttle;

/// The way to the disk, and what is under way there.
pub(super) struct Running {
    pub(super) reader: Reader,
    pub(super) throttle: Option<Throttle>,
    aio: Box<dyn Aio>,
    /// By their tags.
    jobs: Vec<Option<Job>>,
    free: Vec<usize>,
    ended: Vec<Completion>,
    /// How many requests to the disk are under way: a chain may be several.
    requests: usize,
    /// The tag of the first job: those before it are of jobs that were given up.
    first_tag: u64,
}

/// A chain that the disk has.
struct Job {
    queue: u16,
    head: u16,
    status: Buffers,
    /// The bytes before the status.
    room: u64,
    /// Whether they are written unless it fails.
    reads: bool,
    /// How many requests to the disk it still waits for.
    left: usize,
    failed: bool,
}

/// A chain that can go back to the driver: its queue, its head, and what was written.
pub(super) type Given = (u16, u16, u32);

/// Why a queue is not served any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Halt {
    /// As much is under way as may be.
    Full,
    /// The disk's limits do not let more through now.
    Throttled,
}

impl Running {
    pub(super) fn new(reader: Reader, aio: Box<dyn Aio>, throttle: Option<Throttle>) -> Self {
        let (jobs, free, ended) = Default::default();
        Self { reader, throttle, aio, jobs, free, ended, requests: 0, first_tag: 0 }
    }

    /// How many chains the disk has.
    pub(super) fn count(&self) -> usize {
        self.jobs.len().saturating_sub(self.free.len())
    }

    /// Whether it takes no more of them.
    pub(super) fn is_full(&self) -> bool {
        self.requests >= usize::from(DEPTH)
    }

    /// Reads a chain of `queue` and starts it. With [`Outcome::Later`], `halt` says why.
    pub(super) fn take(
        &mut self,
        queue: u16,
        chain: &mut Chain,
        halt: &mut Option<Halt>,
    ) -> Result<Outcome, RingError> {
        if self.is_full() {
            *halt = Some(Halt::Full);
            return Ok(Outcome::Later);
        }
        let Asked { mut status, room, work } = self.reader.read(chain)?;
        let bytes = match &work {
            Work::Answer(code, written) => {
                status.write(&[*code])?;
                return Ok(Outcome::Done(with_status(*written)));
            }
            Work::Transfer { length, .. } => *length,
            Work::Ranges(_) => 0,
        };
        if !work.is_flush() && self.throttle.as_mut().is_some_and(|throttle| !throttle.admit(bytes)) {
            *halt = Some(Halt::Throttled);
            return Ok(Outcome::Later);
        }
        let left = work.parts();
        let reads = matches!(work, Work::Transfer { operation: Operation::Read, .. });
        let tag = self.insert(Job { queue, head: chain.head, status, room, reads, left, failed: false });
        self.requests = self.requests.saturating_add(left);
        match work {
            Work::Answer(..) => {}
            Work::Transfer { operation, offset, length, data } => {
                self.aio.start(Request { tag, operation, offset, length, data: data.into_scatter() });
            }
            Work::Ranges(ranges) => {
                for (operation, offset, length) in ranges {
                    let data = Scatter::new(chain.readable.memory(), Vec::new());
                    self.aio.start(Request { tag, operation, offset, length, data });
                }
            }
        }
        Ok(Outcome::Started)
    }

    fn insert(&mut self, job: Job) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.jobs.push(None);
            self.jobs.len().saturating_sub(1)
        });
        if let Some(place) = self.jobs.get_mut(index) {
            *place = Some(job);
        }
        self.first_tag.wrapping_add(index as u64)
    }

    /// Hands on what was started.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        self.aio.submit()
    }

    /// Waits until something has come to its end, if anything is under way.
    pub(super) fn wait(&mut self) -> io::Result<()> {
        self.aio.wait()
    }

    /// Readable while something has come to its end.
    pub(super) fn ended_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.aio.ended_fd()
    }

    /// The chains that have come to their end, with their status written.
    pub(super) fn take_ended(&mut self) -> Vec<Result<Given, RingError>> {
        let mut ended = std::mem::take(&mut self.ended);
        self.aio.take_ended(&mut ended);
        let given = ended.drain(..).filter_map(|completion| self.end(completion)).collect();
        self.ended = ended;
        given
    }

    /// Gives up on all that is under way. Should the disk come to the end of it after all, it is of no job any longer.
    pub(super) fn forget(&mut self) {
        self.first_tag = self.first_tag.wrapping_add(self.jobs.len() as u64);
        self.requests = 0;
        self.jobs.clear();
        self.free.clear();
    }

    fn end(&mut self, Completion { tag, result }: Completion) -> Option<Result<Given, RingError>> {
        let index = usize::try_from(tag.wrapping_sub(self.first_tag)).ok()?;
        let place = self.jobs.get_mut(index)?;
        let job = place.as_mut()?;
        job.left = job.left.saturating_sub(1);
        self.requests = self.requests.saturating_sub(1);
        if let Err(error) = result {
            tracing::warn!(error = &error as &dyn std::error::Error, "disk request failed");
            job.failed = true;
        }
        if job.left > 0 {
            return None;
        }
        let Job { queue, head, mut status, room, reads, failed, .. } = place.take()?;
        self.free.push(index);
        let code = if failed { status::IOERR } else { status::OK };
        // The first byte that was not written ends what counts (VIRTIO 1.3, 2.7.8.2).
        let written = if room == 0 || reads && !failed { with_status(room) } else { 0 };
        Some(status.write(&[code]).map(|_| (queue, head, written)))
    }
}

/// Bytes written, with the status after them.
fn with_status(written: u64) -> u32 {
    u32::try_from(written.saturating_add(1)).unwrap_or(u32::MAX)
}
