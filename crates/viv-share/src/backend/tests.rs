use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, memfd_create};
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost::vhost_user::{Error as ProtocolError, Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;
use zerocopy::{FromBytes, IntoBytes};

use super::Backend;
use super::vring::{Addresses, Vring};
use crate::fuse::abi::{InHeader, InitIn, InitOut, OutHeader, ROOT};
use crate::testing::{Client, shared};

/// Bytes of guest memory, and where it is in the front end's process, as that says.
const MEMORY: u64 = 1 << 20;
/// See [`MEMORY`].
const USER: u64 = 0x7f00_0000_0000;
/// Where a ring's parts are, and a request and its answer.
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const REQUEST: u64 = 0x3000;
const REPLY: u64 = 0x4000;
/// Descriptors in the ring.
const SIZE: u16 = 16;
/// The queue for requests.
const QUEUE: usize = 1;
/// Where its ring is.
const RING: VringConfigData = VringConfigData {
    queue_max_size: SIZE,
    queue_size: SIZE,
    flags: 0,
    desc_table_addr: USER,
    used_ring_addr: USER + USED,
    avail_ring_addr: USER + AVAILABLE,
    log_addr: None,
};

/// A machine with a device, and the server of a directory behind that.
struct Machine {
    front: Frontend,
    memory: GuestMemoryMmap,
    file: File,
    kick: EventFd,
    call: EventFd,
    server: JoinHandle<Result<(), ProtocolError>>,
}

impl Machine {
    fn new() -> Self {
        let (_home, directory) = shared();
        let backend = Backend::start(Client::mount(&directory).server).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let server = thread::spawn(move || backend.serve(theirs));
        let file = File::from(memfd_create("memory", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(MEMORY).unwrap();
        let place = FileOffset::new(file.try_clone().unwrap(), 0);
        let memory =
            GuestMemoryMmap::from_ranges_with_files([(GuestAddress(0), MEMORY as usize, Some(place))])
                .unwrap();
        let mut front = Frontend::from_stream(ours, 2);
        front.set_owner().unwrap();
        let features = front.get_features().unwrap();
        front.set_features(features).unwrap();
        let offered = front.get_protocol_features().unwrap();
        front.set_protocol_features(offered & VhostUserProtocolFeatures::all()).unwrap();
        front.set_hdr_flags(vhost::vhost_user::message::VhostUserHeaderFlag::NEED_REPLY);
        let event = || EventFd::new(0).unwrap();
        Self { front, memory, file, kick: event(), call: event(), server }
    }

    fn give_memory(&self) {
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: 0,
            memory_size: MEMORY,
            userspace_addr: USER,
            mmap_offset: 0,
            mmap_handle: self.file.as_raw_fd(),
        };
        self.front.set_mem_table(&[region]).unwrap();
    }

    fn start(&mut self) {
        self.front.set_vring_num(QUEUE, SIZE).unwrap();
        self.front.set_vring_addr(QUEUE, &RING).unwrap();
        self.front.set_vring_base(QUEUE, 0).unwrap();
        self.front.set_vring_call(QUEUE, &self.call).unwrap();
        self.front.set_vring_kick(QUEUE, &self.kick).unwrap();
        self.front.set_vring_enable(QUEUE, true).unwrap();
    }

    fn put<T: IntoBytes + zerocopy::Immutable + ?Sized>(&self, value: &T, address: u64) {
        self.memory.write_slice(value.as_bytes(), GuestAddress(address)).unwrap();
    }

    /// A descriptor: where, how long, flags, the next.
    fn describe(&self, index: u64, address: u64, length: u32, flags: u16, next: u16) {
        self.put(&address, index * 16);
        self.put(&length, index * 16 + 8);
        self.put(&[flags, next], index * 16 + 12);
    }

    /// Closes the socket; the server ends.
    fn end(self) -> Result<(), ProtocolError> {
        drop(self.front);
        self.server.join().unwrap()
    }
}

#[test]
fn a_request_comes_by_the_ring() {
    let mut machine = Machine::new();
    machine.give_memory();
    let init = InitIn { major: 7, minor: 38, max_readahead: 4096, flags: 0 };
    let length = (size_of::<InHeader>() + init.as_bytes().len()) as u32;
    let header = InHeader { len: length, opcode: 26, unique: 5, nodeid: ROOT, ..InHeader::default() };
    machine.put(&header, REQUEST);
    machine.put(&init, REQUEST + 40);
    machine.describe(0, REQUEST, length, 1, 1);
    // The answer in two parts.
    machine.describe(1, REPLY, 20, 3, 2);
    machine.describe(2, REPLY + 20, 200, 2, 0);
    machine.put(&[0_u16, 1, 0], AVAILABLE);
    machine.start();
    machine.kick.write(1).unwrap();
    machine.call.read().unwrap();
    let mut answer = [0; 80];
    machine.memory.read_slice(&mut answer, GuestAddress(REPLY)).unwrap();
    let (header, rest) = OutHeader::read_from_prefix(&answer).unwrap();
    assert_eq!((header.len, header.error, header.unique), (80, 0, 5));
    assert_eq!(InitOut::read_from_bytes(rest).unwrap().max_write, 1 << 20);
    let mut used = [0_u32; 3];
    machine.memory.read_slice(used.as_mut_bytes(), GuestAddress(USED)).unwrap();
    assert_eq!(used, [1 << 16, 0, 80], "the first of one, as long as it is");
    assert_eq!(machine.front.get_vring_base(QUEUE).unwrap(), 1);
    assert!(machine.end().is_ok());
}

#[test]
fn rings_that_are_none_harm_nobody() {
    let mut machine = Machine::new();
    machine.give_memory();
    // More requests than there are descriptors; a chain that leads to itself; one that leads out of memory.
    machine.describe(0, REQUEST, 64, 1, 0);
    machine.describe(1, MEMORY - 8, 64, 0, 0);
    machine.put(&[0_u16, 0xfff0, 0, 1, 99, 1], AVAILABLE);
    machine.start();
    machine.kick.write(1).unwrap();
    // It can be stopped, and started with less of a ring.
    machine.front.get_vring_base(QUEUE).unwrap();
    machine.put(&[0_u16, 3], AVAILABLE);
    machine.start();
    machine.kick.write(1).unwrap();
    machine.call.read().unwrap();
    assert!(machine.front.get_vring_base(QUEUE).unwrap() <= 3);
    assert!(machine.end().is_ok());
}

#[test]
fn what_is_no_memory_and_no_ring_is_refused() {
    let machine = Machine::new();
    assert!(machine.front.set_vring_addr(QUEUE, &RING).is_err(), "there is no memory yet");
    let _ = machine.end();
}

#[test]
fn nonsense_ends_the_conversation() {
    let (_home, directory) = shared();
    let backend = Backend::start(Client::mount(&directory).server).unwrap();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let server = thread::spawn(move || backend.serve(theirs));
    ours.write_all(&[0xff; 12]).unwrap();
    assert!(server.join().unwrap().is_err());
}

#[test]
fn requests_that_come_together_are_given_to_a_thread_each() {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY as usize)]).unwrap();
    let memory = Arc::new(memory);
    let vring = Arc::new(Vring::new().unwrap());
    vring.set_memory(memory.clone());
    vring.set_size(SIZE).unwrap();
    let [descriptors, available, used] = [0, AVAILABLE, USED].map(GuestAddress);
    vring.set_addresses(Addresses { descriptors, available, used }).unwrap();
    let (kick, doorbell) = doorbell();
    vring.start(doorbell).unwrap();
    vring.set_enabled(true);
    let (sender, heads) = mpsc::channel();
    for _ in 0..3 {
        let (vring, sender) = (vring.clone(), sender.clone());
        // Nobody gives a request back: a thread that has one is of no use for another.
        thread::spawn(move || sender.send(vring.next().unwrap().head_index()).unwrap());
    }
    let ring = |end: u16| {
        memory.write_slice([0, end, 4, 5, 6].as_bytes(), GuestAddress(AVAILABLE)).unwrap();
        rustix::io::write(&kick, &1_u64.to_ne_bytes()).unwrap();
    };
    ring(2);
    let mut both = [heads.recv().unwrap(), heads.recv().unwrap()];
    both.sort_unstable();
    assert_eq!(both, [4, 5]);
    // The doorbell rings again though nobody has read it.
    ring(3);
    assert_eq!(heads.recv(), Ok(6));
}

#[test]
fn a_doorbell_is_something_to_wait_for() {
    let vring = Vring::new().unwrap();
    assert!(vring.start(tempfile::tempfile().unwrap()).is_err());
    let (_kick, doorbell) = doorbell();
    vring.start(doorbell.try_clone().unwrap()).unwrap();
    vring.stop();
    vring.start(doorbell).unwrap();
}

/// An event for the front end, and the same for the back end.
fn doorbell() -> (OwnedFd, File) {
    let kick = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let theirs = kick.try_clone().unwrap();
    (kick, File::from(theirs))
}
