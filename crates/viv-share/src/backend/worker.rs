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
    request: Vec<u8>,
    reply: Vec<u8>,
}

impl Worker {
    pub(super) fn new(server: Arc<FileServer>, vring: Arc<Vring>) -> Self {
        Self { server, vring, request: Vec::new(), reply: Vec::new() }
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
        self.request.clear();
        for part in chain.clone().readable() {
            let start = self.request.len();
            let end = start.saturating_add(part.len() as usize);
            if end > LONGEST {
                return 0;
            }
            self.request.resize(end, 0);
            let place = self.request.get_mut(start..).unwrap_or_default();
            if memory.read_slice(place, part.addr()).is_err() {
                return 0;
            }
        }
        let room = chain.clone().writable().map(|part| part.len() as usize);
        let room = room.fold(0_usize, usize::saturating_add).min(LONGEST);
        if !self.server.serve(&self.request, room, &mut self.reply) {
            return 0;
        }
        let mut rest = self.reply.as_slice();
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
        u32::try_from(self.reply.len()).unwrap_or(0)
    }
}
