//! A thread that serves requests of a ring.

use std::sync::Arc;

use vm_memory::{Bytes, GuestMemoryMmap};

use super::vring::{Chain, Vring};
use crate::server::{FileServer, LARGEST_DATA};

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
        let reply = self.reply.get_mut(..room).unwrap_or_default();
        let Some(length) = self.server.serve(request, reply) else { return 0 };
        let mut rest = self.reply.get(..length).unwrap_or_default();
        for part in chain.clone().writable() {
            let (here, after) = rest.split_at(rest.len().min(part.len() as usize));
            if here.is_empty() {
                break;
            }
            if memory.write_slice(here, part.addr()).is_err() {
                return 0;
            }
            rest = after;
        }
        u32::try_from(length).unwrap_or(0)
    }
}
