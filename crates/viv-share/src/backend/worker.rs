//! A thread that serves requests of a ring.

use std::os::fd::AsFd;
use std::sync::Arc;

use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryMmap};
use zerocopy::IntoBytes;

use super::vring::{Chain, Vring};
use crate::fuse::abi::OutHeader;
use crate::scatter;
use crate::server::{FileServer, LARGEST_DATA, Reading};

/// The longest request or reply: the most data, and what comes before it.
const LONGEST: usize = LARGEST_DATA + 4096;

/// A thread that serves requests of a ring.
#[derive(Debug)]
pub(super) struct Worker {
    server: Arc<FileServer>,
    vring: Arc<Vring>,
    /// Room for any request and reply. What was never used takes no memory.
    request: Box<[u8]>,
    reply: Box<[u8]>,
}

impl Worker {
    pub(super) fn new(server: Arc<FileServer>, vring: Arc<Vring>) -> Self {
        let room = || vec![0; LONGEST].into_boxed_slice();
        Self { server, vring, request: room(), reply: room() }
    }

    /// Serves for good.
    pub(super) fn run(mut self) {
        loop {
            match self.vring.next() {
                Ok(chain) => {
                    let head = chain.head_index();
                    let length = self.serve(&chain);
                    self.vring.done(head, length);
                }
                Err(error) => return tracing::error!(%error, "the host does not wait for requests"),
            }
        }
    }

    /// Serves a request, and says how long the answer is.
    fn serve(&mut self, chain: &Chain) -> u32 {
        let memory: &GuestMemoryMmap = chain.memory();
        let mut length = 0_usize;
        for part in chain.clone().readable() {
            let end = length.saturating_add(part.len() as usize);
            let Some(place) = self.request.get_mut(length..end) else { return 0 };
            if memory.read_slice(place, part.addr()).is_err() {
                return 0;
            }
            length = end;
        }
        let room = chain.clone().writable().map(|part| part.len() as usize);
        let room = room.fold(0_usize, usize::saturating_add).min(LONGEST);
        let request = self.request.get(..length).unwrap_or_default();
        if let Some(length) = self.server.reading(request).and_then(|reading| read(chain, &reading)) {
            return length;
        }
        let reply = self.reply.get_mut(..room).unwrap_or_default();
        let Some(length) = self.server.serve(request, reply) else { return 0 };
        answer(chain, self.reply.get(..length).unwrap_or_default());
        u32::try_from(length).unwrap_or(0)
    }
}

/// Puts bytes where the answer goes, of which there is room for all.
fn answer(chain: &Chain, mut bytes: &[u8]) {
    for part in chain.clone().writable() {
        let (here, after) = bytes.split_at(bytes.len().min(part.len() as usize));
        if here.is_empty() || chain.memory().write_slice(here, part.addr()).is_err() {
            return;
        }
        bytes = after;
    }
}

/// Reads a file to where the answer goes, and says how long the answer is. `None`: by pieces that are too many.
fn read(chain: &Chain, reading: &Reading) -> Option<u32> {
    let head = size_of::<OutHeader>();
    let (mut before, mut left) = (head, reading.size);
    let mut pieces = Vec::new();
    for part in chain.clone().writable() {
        for slice in chain.memory().get_slices(part.addr(), part.len() as usize) {
            let slice = slice.ok()?;
            let passed = before.min(slice.len());
            before = before.saturating_sub(passed);
            let slice = slice.offset(passed).ok()?;
            let slice = slice.subslice(0, slice.len().min(left)).ok()?;
            left = left.saturating_sub(slice.len());
            if !slice.is_empty() {
                pieces.push(slice);
            }
        }
    }
    if before > 0 || pieces.len() > scatter::MOST {
        return None;
    }
    let (length, error) = match scatter::read(reading.file.as_fd(), reading.offset, &pieces) {
        Ok(count) => (head.saturating_add(count), 0),
        Err(errno) => (head, errno.raw_os_error().saturating_neg()),
    };
    let length = u32::try_from(length).ok()?;
    answer(chain, OutHeader { len: length, error, unique: reading.unique }.as_bytes());
    Some(length)
}
