//! A back end for tests: it speaks on a thread of its own, and serves its rings when the test says so.

use std::fs::File;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::virtio::feature;

/// Requests of the protocol.
mod request {
    pub(super) const GET_FEATURES: u32 = 1;
    pub(super) const SET_FEATURES: u32 = 2;
    pub(super) const SET_MEM_TABLE: u32 = 5;
    pub(super) const SET_VRING_NUM: u32 = 8;
    pub(super) const SET_VRING_ADDR: u32 = 9;
    pub(super) const SET_VRING_BASE: u32 = 10;
    pub(super) const GET_VRING_BASE: u32 = 11;
    pub(super) const SET_VRING_KICK: u32 = 12;
    pub(super) const SET_VRING_CALL: u32 = 13;
    pub(super) const GET_PROTOCOL_FEATURES: u32 = 15;
    pub(super) const GET_QUEUE_NUM: u32 = 17;
    pub(super) const GET_CONFIG: u32 = 24;
}

/// Of virtio: there is more of the protocol than at its beginning.
const PROTOCOL: u64 = 1 << 30;
/// Of the protocol: several queues, answers to all messages, a configuration space.
const PROTOCOL_FEATURES: u64 = 1 << 0 | 1 << 3 | 1 << 9;
const REPLY: u32 = 1 | 4;
const NEEDS_REPLY: u32 = 8;

/// A back end.
pub(crate) struct Fake {
    /// What it offers.
    features: u64,
    queues: u64,
    config: Vec<u8>,
    /// What was chosen of its features.
    pub(super) chosen: u64,
    regions: Vec<Region>,
    pub(super) rings: Vec<FakeRing>,
    /// Where it says it stopped, if not where it did.
    pub(super) lies: Option<u32>,
}

/// A part of memory: guest-physical address, bytes, address as the other side has it, file, offset in that.
struct Region {
    guest: u64,
    size: u64,
    user: u64,
    file: File,
    offset: u64,
}

/// A ring as it is told of it.
#[derive(Default)]
pub(crate) struct FakeRing {
    size: u64,
    descriptors: u64,
    available: u64,
    used: u64,
    next: u16,
    next_used: u16,
    pub(super) kick: Option<File>,
    call: Option<File>,
}

/// What a request has: its head, what it says, and where the answer goes.
pub(super) struct Request {
    pub(super) head: u16,
    pub(super) says: Vec<u8>,
    writable: Vec<(u64, u32)>,
}

impl Fake {
    /// One with these features, beside those that all have, queues and configuration space; and the other end of its socket.
    pub(crate) fn start(features: u64, queues: u64, config: &[u8]) -> (UnixStream, Arc<Mutex<Self>>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let rings = std::iter::repeat_with(FakeRing::default).take(queues as usize).collect();
        let fake = Arc::new(Mutex::new(Self {
            features: features | feature::VERSION_1 | feature::RING_INDIRECT_DESC | PROTOCOL,
            queues,
            config: config.to_vec(),
            chosen: 0,
            regions: Vec::new(),
            rings,
            lies: None,
        }));
        let served = fake.clone();
        thread::spawn(move || {
            while let Some((head, body, fds)) = receive(&theirs) {
                let mut answer = lock(&served).answer(head[0], &body, fds);
                if answer.is_none() && head[1] & NEEDS_REPLY != 0 {
                    answer = Some(vec![0; 8]);
                }
                if let Some(answer) = answer {
                    let mut message: Vec<u8> = [head[0], REPLY, answer.len() as u32]
                        .iter()
                        .flat_map(|word| word.to_le_bytes())
                        .collect();
                    message.extend(answer);
                    if rustix::io::write(&theirs, &message).is_err() {
                        return;
                    }
                }
            }
        });
        (ours, fake)
    }

    fn answer(&mut self, kind: u32, body: &[u8], mut fds: Vec<OwnedFd>) -> Option<Vec<u8>> {
        let word = |at: usize| u32::from_le_bytes(body[at..at + 4].try_into().unwrap());
        let long = |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().unwrap());
        let ring = |fake: &mut Self, change: &mut dyn FnMut(&mut FakeRing)| {
            change(&mut fake.rings[(word(0) & 0xff) as usize]);
        };
        match kind {
            request::GET_FEATURES => return Some(self.features.to_le_bytes().into()),
            request::GET_PROTOCOL_FEATURES => return Some(PROTOCOL_FEATURES.to_le_bytes().into()),
            request::GET_QUEUE_NUM => return Some(self.queues.to_le_bytes().into()),
            request::GET_CONFIG => {
                let mut answer = body.to_vec();
                for (place, byte) in answer.iter_mut().skip(12).zip(&self.config) {
                    *place = *byte;
                }
                return Some(answer);
            }
            request::SET_FEATURES => self.chosen = long(0),
            request::SET_MEM_TABLE => {
                let part = |(index, file): (usize, OwnedFd)| {
                    let at = 8 + index * 32;
                    let (guest, size, user, offset) = (long(at), long(at + 8), long(at + 16), long(at + 24));
                    Region { guest, size, user, file: file.into(), offset }
                };
                self.regions = fds.into_iter().enumerate().map(part).collect();
            }
            request::SET_VRING_NUM => ring(self, &mut |ring| ring.size = word(4).into()),
            request::SET_VRING_BASE => ring(self, &mut |ring| ring.next = word(4) as u16),
            request::SET_VRING_ADDR => ring(self, &mut |ring| {
                (ring.descriptors, ring.used, ring.available) = (long(8), long(16), long(24));
                ring.next_used = 0;
            }),
            request::SET_VRING_KICK => ring(self, &mut |ring| ring.kick = fds.pop().map(File::from)),
            request::SET_VRING_CALL => ring(self, &mut |ring| ring.call = fds.pop().map(File::from)),
            request::GET_VRING_BASE => {
                let at = word(0) as usize;
                self.rings[at].kick = None;
                let base = self.lies.unwrap_or(self.rings[at].next.into());
                return Some([word(0).to_le_bytes(), base.to_le_bytes()].concat());
            }
            _ => {}
        }
        None
    }

    /// Takes the next request of a ring, of which only its first descriptor is known.
    pub(crate) fn take_head(&mut self, index: usize) -> Option<u16> {
        let ring = &self.rings[index];
        ring.kick.as_ref()?;
        let (next, available) = (ring.next, ring.available);
        if self.word(available + 2) == next {
            return None;
        }
        let head = self.word(available + 4 + u64::from(next) % ring.size * 2);
        self.rings[index].next = next.wrapping_add(1);
        Some(head)
    }

    /// Takes the next request of a ring.
    pub(super) fn take(&mut self, index: usize) -> Option<Request> {
        let head = self.take_head(index)?;
        let descriptors = self.rings[index].descriptors;
        let (mut says, mut writable, mut at) = (Vec::new(), Vec::new(), head);
        loop {
            let mut descriptor = [0; 16];
            self.read(descriptors + u64::from(at) * 16, true, &mut descriptor);
            let address = u64::from_le_bytes(descriptor[..8].try_into().unwrap());
            let length = u32::from_le_bytes(descriptor[8..12].try_into().unwrap());
            let flags = u16::from_le_bytes([descriptor[12], descriptor[13]]);
            if flags & 2 != 0 {
                writable.push((address, length));
            } else {
                let mut part = vec![0; length as usize];
                self.read(address, false, &mut part);
                says.extend(part);
            }
            if flags & 1 == 0 {
                return Some(Request { head, says, writable });
            }
            at = u16::from_le_bytes([descriptor[14], descriptor[15]]);
        }
    }

    /// Answers a request, which fits its first buffer, and calls.
    pub(super) fn give_back(&mut self, index: usize, request: &Request, answer: &[u8]) {
        if let Some(&(address, _)) = request.writable.first() {
            self.write(address, false, answer);
        }
        self.give_back_head(index, request.head, answer.len() as u32);
    }

    /// Puts something into the used ring that need not make sense.
    pub(crate) fn mark_used(&mut self, index: usize, head: u32, written: u32) {
        let ring = &mut self.rings[index];
        let at = ring.used + 4 + u64::from(ring.next_used) % ring.size * 8;
        ring.next_used = ring.next_used.wrapping_add(1);
        self.write(at, true, &[head.to_le_bytes(), written.to_le_bytes()].concat());
    }

    /// Calls a request used, and whoever waits for it.
    pub(crate) fn give_back_head(&mut self, index: usize, head: u16, written: u32) {
        self.mark_used(index, head.into(), written);
        self.set_used_index(index, self.rings[index].next_used);
    }

    /// Says how far it got, and calls.
    pub(crate) fn set_used_index(&mut self, index: usize, value: u16) {
        let ring = &self.rings[index];
        self.write(ring.used + 2, true, &value.to_le_bytes());
        if let Some(call) = &ring.call {
            rustix::io::write(call, &1_u64.to_ne_bytes()).unwrap();
        }
    }

    /// How many bytes of guest memory it knows of.
    pub(super) fn memory(&self) -> u64 {
        self.regions.iter().map(|region| region.size).sum()
    }

    fn word(&self, address: u64) -> u16 {
        let mut bytes = [0; 2];
        self.read(address, true, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    fn read(&self, address: u64, is_user: bool, data: &mut [u8]) {
        let (file, at) = self.find(address, is_user);
        file.read_exact_at(data, at).unwrap();
    }

    fn write(&self, address: u64, is_user: bool, data: &[u8]) {
        let (file, at) = self.find(address, is_user);
        file.write_all_at(data, at).unwrap();
    }

    /// The file that an address is in, and where.
    fn find(&self, address: u64, is_user: bool) -> (&File, u64) {
        let offset = |region: &Region| address.wrapping_sub(if is_user { region.user } else { region.guest });
        let region =
            self.regions.iter().find(|region| offset(region) < region.size).expect("an address in memory");
        (&region.file, region.offset + offset(region))
    }
}

/// Locks a back end.
pub(crate) fn lock(fake: &Mutex<Fake>) -> MutexGuard<'_, Fake> {
    fake.lock().unwrap()
}

/// The next message: request, flags and length; body; descriptors.
fn receive(socket: &UnixStream) -> Option<([u32; 3], Vec<u8>, Vec<OwnedFd>)> {
    let mut head = [0; 12];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received =
        recvmsg(socket, &mut [IoSliceMut::new(&mut head)], &mut ancillary, RecvFlags::CMSG_CLOEXEC).ok()?;
    if received.bytes != head.len() {
        return None;
    }
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(given) = message {
            fds.extend(given);
        }
    }
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let mut body = vec![0; word(8) as usize];
    std::io::Read::read_exact(&mut &*socket, &mut body).ok()?;
    Some(([word(0), word(4), word(8)], body, fds))
}
