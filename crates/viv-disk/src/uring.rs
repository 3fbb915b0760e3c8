//! Requests to a raw disk by io_uring: the kernel moves data between the file and guest memory by itself.
//!
//! The one module of the crate that has `unsafe` code, because the kernel is told addresses. **Invariant**: what an
//! entry given to the kernel points to (the vector of pieces, and the guest memory that they are) lives in a slot of
//! [`Uring::slots`], is neither moved nor changed, and is dropped only when the kernel has said that the entry is done.
//! The slot's [`Scatter`](crate::aio::Scatter) holds a reference to guest memory. A ring that is dropped waits for all
//! of its entries; if it cannot, it leaves their slots where they are for good.
//!
//! Guest memory is never behind a Rust reference: what the kernel writes meanwhile is as what another processor writes.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::register::Restriction;
use io_uring::{IoUring, Probe, opcode, squeue, types};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::aio::{Aio, Completion, DEPTH, GuestPiece, Operation, Request};
use crate::direct::Alignment;
use crate::file::DiskFile;
use crate::{Disk, DiskError, RawDisk, check_range};

/// `RWF_DSYNC`: the write is durable when it is done.
const DSYNC: i32 = 2;
/// How long to wait before the kernel is asked again, if it was short of memory.
const PAUSE: Duration = Duration::from_millis(1);

/// A ring, and the requests in it.
pub(crate) struct Uring {
    ring: IoUring,
    /// Keeps the file open.
    disk: Arc<dyn Disk>,
    file: types::Fd,
    slots: Vec<Option<Box<Slot>>>,
    free: Vec<usize>,
    /// How many slots are taken.
    in_flight: usize,
    ended: Vec<Completion>,
}

/// A request that the kernel has.
struct Slot {
    request: Request,
    stage: Stage,
    pieces: Vec<Piece>,
    /// How many of the pieces are done, and how many bytes altogether.
    first: usize,
    done: u64,
}

/// What a slot's entry is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Transfer,
    /// Give space back.
    Punch,
    /// Zero without giving it back.
    Zero,
    Sync,
}

/// A `struct iovec`, with the address as a number, because a slot goes from thread to thread.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Piece {
    base: usize,
    length: usize,
}

impl Piece {
    fn of(slice: &GuestPiece<'_>) -> Self {
        Self { base: slice.ptr_guard_mut().as_ptr().expose_provenance(), length: slice.len() }
    }
}

impl Uring {
    /// A ring for `disk`, which must be raw. Fails where the kernel is too old for what is used here, or forbids it.
    pub(crate) fn new(disk: Arc<dyn Disk>) -> io::Result<Self> {
        let unsupported = |reason| io::Error::new(io::ErrorKind::Unsupported, reason);
        // Since Linux 5.10 a ring can be made that does these things and no others.
        let old = |_| unsupported("the host's kernel is older than Linux 5.10, or forbids it");
        let ring = IoUring::builder().setup_r_disabled().build(DEPTH.into()).map_err(old)?;
        let features = ring.params();
        // Completions must not get lost, and pieces may go once they are submitted.
        if !(features.is_feature_nodrop()
            && features.is_feature_submit_stable()
            && features.is_feature_poll_32bits())
        {
            return Err(unsupported("the host's kernel lacks features that are needed"));
        }
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let used = [opcode::Readv::CODE, opcode::Writev::CODE, opcode::Fsync::CODE, opcode::Fallocate::CODE];
        if !used.iter().all(|&code| probe.is_supported(code)) {
            return Err(unsupported("the host's kernel lacks operations that are needed"));
        }
        // Filters of system calls do not see what a ring is asked to do.
        let mut restrictions = used.map(Restriction::sqe_op);
        ring.submitter().register_restrictions(&mut restrictions)?;
        ring.submitter().register_enable_rings()?;
        // Not registered with the ring: the kernel lets go of what is some time after the ring or its process is gone,
        // and until then the file would be locked.
        let file = disk.as_raw().ok_or_else(|| unsupported("the disk is not raw"))?.file();
        let file = types::Fd(file.as_fd().as_raw_fd());
        let (slots, free, ended) = Default::default();
        Ok(Self { ring, disk, file, slots, free, in_flight: 0, ended })
    }

    /// Checks a request, and makes the slot in which the kernel gets it. `None` if there is nothing to do.
    fn prepare(&self, request: &Request) -> Result<Option<Prepared>, DiskError> {
        let Some(raw) = self.disk.as_raw() else { return Ok(None) };
        let Request { operation, offset, length, ref data, .. } = *request;
        let stage = match operation {
            Operation::Read => {
                check_range(offset, length, raw.size())?;
                Stage::Transfer
            }
            Operation::Write { .. } => {
                raw.check_change(offset, length)?;
                Stage::Transfer
            }
            Operation::Flush if raw.read_only() => return Ok(None),
            Operation::Flush => return Ok(Some(Prepared::Slot(Stage::Sync, Vec::new()))),
            Operation::Discard => {
                raw.check_change(offset, length)?;
                Stage::Punch
            }
            Operation::WriteZeroes { may_unmap, .. } => {
                raw.check_change(offset, length)?;
                if may_unmap { Stage::Punch } else { Stage::Zero }
            }
        };
        if length == 0 {
            return Ok(None);
        }
        if stage != Stage::Transfer {
            return Ok(Some(Prepared::Slot(stage, Vec::new())));
        }
        if data.length() != length {
            return Err(DiskError::OutOfRange { offset, length, size: data.length() });
        }
        let pieces: Vec<_> = data.pieces()?.iter().map(Piece::of).collect();
        if pieces.len() > MOST_PIECES || !raw.file().direct().is_none_or(|align| fits(align, offset, &pieces))
        {
            return Ok(Some(Prepared::Alone));
        }
        Ok(Some(Prepared::Slot(stage, pieces)))
    }

    fn insert(&mut self, slot: Slot) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len().saturating_sub(1)
        });
        if let Some(place) = self.slots.get_mut(index) {
            *place = Some(Box::new(slot));
            self.in_flight = self.in_flight.saturating_add(1);
            self.push(index);
        }
    }

    /// Puts the entry for what is left of a slot's request into the ring.
    fn push(&mut self, index: usize) {
        let Some(slot) = self.slots.get(index).and_then(Option::as_ref) else { return };
        let entry = slot.entry(self.file).user_data(index as u64);
        // SAFETY: the entry's descriptor is the disk's, which stays open. Its pointer is to the pieces in the slot, and theirs are to guest memory that the slot holds.
        // Nothing changes, moves or drops them before `reap` has seen the entry's completion; see the module's invariant.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            // The ring is full of what was not submitted yet.
            if let Err(error) = self.enter(0) {
                self.end(index, Err(error));
                return;
            }
        }
    }

    /// Hands entries to the kernel, and waits for `wanted` completions.
    fn enter(&mut self, wanted: usize) -> io::Result<()> {
        loop {
            match self.ring.submit_and_wait(wanted) {
                Ok(_) => return Ok(()),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    // Short of memory, or of room for completions, of which it may have some for us.
                    Some(libc::EAGAIN | libc::EBUSY) => {
                        self.reap();
                        if wanted > 0 && !self.ended.is_empty() {
                            return Ok(());
                        }
                        std::thread::sleep(PAUSE);
                    }
                    _ => return Err(error),
                },
            }
        }
    }

    /// Takes what the kernel has done. Returns whether something has to go on, and was pushed.
    fn reap(&mut self) -> bool {
        let mut again = false;
        loop {
            let Some(done) = self.ring.completion().next() else { return again };
            let index = usize::try_from(done.user_data()).unwrap_or(usize::MAX);
            let Some(slot) = self.slots.get_mut(index).and_then(Option::as_mut) else { continue };
            match slot.advance(done.result(), &*self.disk) {
                Some(result) => self.end(index, result),
                None => {
                    self.push(index);
                    again = true;
                }
            }
        }
    }

    /// The request in a slot has come to its end; the kernel has nothing of it any longer.
    fn end(&mut self, index: usize, result: io::Result<()>) {
        let Some(slot) = self.slots.get_mut(index).and_then(Option::take) else { return };
        self.free.push(index);
        self.in_flight = self.in_flight.saturating_sub(1);
        let Slot { request, .. } = *slot;
        if request.operation == Operation::Read {
            request.data.note_written();
        }
        let result = result.map_err(|error| match self.disk.as_raw() {
            Some(raw) => DiskError::io(action(request.operation), raw.file().path())(error),
            None => DiskError::NotRaw { option: "aio=io_uring", instead: "aio=threads" },
        });
        self.ended.push(Completion { tag: request.tag, result });
    }

    /// Carries out a request that the kernel would not take as it is, while nothing else runs: it may have to read,
    /// change and write back what others write.
    fn perform_alone(&mut self, request: &Request) -> Result<(), DiskError> {
        let path = self.disk.as_raw().map(|raw| raw.file().path().to_owned()).unwrap_or_default();
        self.drain().map_err(DiskError::io(action(request.operation), &path))?;
        request.perform(&*self.disk)
    }

    fn drain(&mut self) -> io::Result<()> {
        while self.in_flight > 0 {
            self.enter(1)?;
            self.reap();
        }
        Ok(())
    }
}

/// The most pieces of one entry (`UIO_MAXIOV`).
const MOST_PIECES: usize = 1024;

/// How a request is to be carried out.
enum Prepared {
    /// By the kernel, beside others.
    Slot(Stage, Vec<Piece>),
    /// By calls, with no others at the same time.
    Alone,
}

fn fits(align: Alignment, offset: u64, pieces: &[Piece]) -> bool {
    align.fits(offset, pieces.iter().map(|piece| (piece.base as u64, piece.length as u64)))
}

fn action(operation: Operation) -> &'static str {
    match operation {
        Operation::Read => "read",
        Operation::Write { .. } => "write",
        Operation::Flush => "flush",
        Operation::Discard | Operation::WriteZeroes { .. } => "free space in",
    }
}

impl Slot {
    /// The entry for what is left to do.
    fn entry(&self, file: types::Fd) -> squeue::Entry {
        let Self { request: Request { operation, offset, length, .. }, stage, .. } = *self;
        let offset = offset.saturating_add(self.done);
        let left = self.pieces.get(self.first..).unwrap_or_default();
        let vector = left.as_ptr().cast::<libc::iovec>();
        let count = u32::try_from(left.len()).unwrap_or(u32::MAX);
        let keep = FallocateFlags::KEEP_SIZE;
        let allocate = |mode: FallocateFlags| {
            opcode::Fallocate::new(file, length).offset(offset).mode(mode.bits().cast_signed()).build()
        };
        match (stage, operation) {
            (Stage::Transfer, Operation::Write { durable }) => opcode::Writev::new(file, vector, count)
                .offset(offset)
                .rw_flags(if durable { DSYNC } else { 0 })
                .build(),
            (Stage::Transfer, _) => opcode::Readv::new(file, vector, count).offset(offset).build(),
            (Stage::Punch, _) => allocate(FallocateFlags::PUNCH_HOLE | keep),
            (Stage::Zero, _) => allocate(FallocateFlags::ZERO_RANGE | keep),
            (Stage::Sync, _) => opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC).build(),
        }
    }

    /// What follows from the kernel's answer; `None` if the slot has to go into the ring again.
    fn advance(&mut self, answer: i32, disk: &dyn Disk) -> Option<io::Result<()>> {
        let Ok(count) = usize::try_from(answer) else {
            return self.failed(Errno::from_raw_os_error(answer.saturating_neg()), disk);
        };
        match self.stage {
            Stage::Transfer => self.transferred(count),
            Stage::Punch | Stage::Zero => self.zeroed(),
            Stage::Sync => Some(Ok(())),
        }
    }

    fn failed(&mut self, errno: Errno, disk: &dyn Disk) -> Option<io::Result<()>> {
        let zeroes = matches!(self.request.operation, Operation::WriteZeroes { .. });
        match (self.stage, errno) {
            (_, Errno::INTR | Errno::AGAIN) => None,
            (Stage::Punch, errno) if zeroes && cannot(errno, disk) => {
                self.stage = Stage::Zero;
                None
            }
            // A host that cannot give space back keeps it.
            (Stage::Punch, errno) if cannot(errno, disk) => Some(Ok(())),
            (Stage::Zero, errno) if cannot(errno, disk) => {
                let Request { offset, length, .. } = self.request;
                let file = disk.as_raw().map(RawDisk::file);
                match file.map(|file| file.write_zeroes_by_hand(offset, length)) {
                    Some(Err(error)) => Some(Err(io::Error::other(error))),
                    _ => self.zeroed(),
                }
            }
            (_, errno) => Some(Err(errno.into())),
        }
    }

    /// Space was zeroed or given back.
    fn zeroed(&mut self) -> Option<io::Result<()>> {
        if let Operation::WriteZeroes { durable: true, .. } = self.request.operation {
            self.stage = Stage::Sync;
            return None;
        }
        Some(Ok(()))
    }

    /// `count` bytes were moved, which may be fewer than there are.
    fn transferred(&mut self, mut count: usize) -> Option<io::Result<()>> {
        if count == 0 {
            return Some(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        self.done = self.done.saturating_add(count as u64);
        while let Some(piece) = self.pieces.get_mut(self.first)
            && count > 0
        {
            let take = count.min(piece.length);
            piece.base = piece.base.saturating_add(take);
            piece.length = piece.length.saturating_sub(take);
            count = count.saturating_sub(take);
            if piece.length == 0 {
                self.first = self.first.saturating_add(1);
            }
        }
        if self.first < self.pieces.len() { None } else { Some(Ok(())) }
    }
}

/// Whether it says that the host cannot do such a thing at all. A block device says so of ranges that do not fit it.
fn cannot(errno: Errno, disk: &dyn Disk) -> bool {
    let is_block_device = disk.as_raw().map(RawDisk::file).is_some_and(DiskFile::is_block_device);
    matches!(errno, Errno::OPNOTSUPP | Errno::NOSYS) || errno == Errno::INVAL && is_block_device
}

impl Aio for Uring {
    fn start(&mut self, request: Request) {
        let result = match self.prepare(&request) {
            Ok(Some(Prepared::Slot(stage, pieces))) => {
                return self.insert(Slot { request, stage, pieces, first: 0, done: 0 });
            }
            Ok(Some(Prepared::Alone)) => self.perform_alone(&request),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        self.ended.push(Completion { tag: request.tag, result });
    }

    fn submit(&mut self) -> io::Result<()> {
        if self.ring.submission().is_empty() { Ok(()) } else { self.enter(0) }
    }

    fn take_ended(&mut self, ended: &mut Vec<Completion>) {
        if self.reap() {
            // If it fails, so does the caller's next one.
            let _ = self.submit();
        }
        ended.append(&mut self.ended);
    }

    fn wait(&mut self) -> io::Result<()> {
        self.submit()?;
        self.reap();
        while self.ended.is_empty() && self.in_flight > 0 {
            self.enter(1)?;
            self.reap();
        }
        Ok(())
    }

    /// The ring's own descriptor is readable while it has completions.
    fn ended_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is the ring's, which lives as long as the result.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        if self.drain().is_err() {
            // The kernel may still write to them.
            std::mem::forget(std::mem::take(&mut self.slots));
        }
    }
}
