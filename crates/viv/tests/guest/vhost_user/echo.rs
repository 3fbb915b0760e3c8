//! A network of one host that sends everything back: it answers ARP for any address, and UDP to any port.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use vhost::vhost_user::Listener;
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackendMut, VhostUserDaemon, VringRwLock, VringT};
use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

/// Queues of a network interface: frames to the guest, frames from it.
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// Bytes of virtio's header before each frame, of which the last two are the number of buffers.
const HEADER: usize = 12;
const VERSION_1: u64 = 1 << 32;

/// Serves one guest at this path, on threads that last as long as the tests.
pub fn serve(path: &Path) {
    let mut listener = Listener::from(UnixListener::bind(path).expect("a socket"));
    let memory = Memory::new(GuestMemoryMmap::new());
    let echo = Arc::new(Mutex::new(Echo { memory: memory.clone() }));
    let mut daemon = VhostUserDaemon::new("echo".to_owned(), echo, memory).expect("a daemon");
    thread::spawn(move || {
        daemon.start(&mut listener).expect("a guest");
        // It ends with an error when the guest goes.
        let _ = daemon.wait();
    });
}

struct Echo {
    memory: Memory,
}

impl Echo {
    /// Takes the frames that the guest has sent.
    fn take(&self, vring: &VringRwLock) -> Vec<Vec<u8>> {
        let memory = self.memory.memory();
        let mut frames = Vec::new();
        let mut ring = vring.get_mut();
        while let Some(chain) = ring.get_queue_mut().pop_descriptor_chain(memory.clone()) {
            let head = chain.head_index();
            let mut frame = Vec::new();
            for part in chain.readable() {
                let mut bytes = vec![0; part.len() as usize];
                memory.read_slice(&mut bytes, part.addr()).expect("in memory");
                frame.extend(bytes);
            }
            frames.push(frame.split_off(HEADER.min(frame.len())));
            ring.add_used(head, 0).expect("used");
        }
        ring.signal_used_queue().expect("signalled");
        frames
    }

    /// Sends a frame to the guest, if it has a buffer.
    fn give(&self, vring: &VringRwLock, frame: &[u8]) {
        let memory = self.memory.memory();
        let mut ring = vring.get_mut();
        let Some(chain) = ring.get_queue_mut().pop_descriptor_chain(memory.clone()) else { return };
        let head = chain.head_index();
        let mut message = vec![0; HEADER];
        message[HEADER - 2] = 1;
        message.extend(frame);
        let mut rest = message.as_slice();
        for part in chain.writable() {
            let (now, later) = rest.split_at(rest.len().min(part.len() as usize));
            memory.write_slice(now, part.addr()).expect("in memory");
            rest = later;
        }
        ring.add_used(head, message.len() as u32).expect("used");
        ring.signal_used_queue().expect("signalled");
    }
}

impl VhostUserBackendMut for Echo {
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        2
    }

    fn max_queue_size(&self) -> usize {
        1024
    }

    fn features(&self) -> u64 {
        VERSION_1 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK
    }

    fn set_event_idx(&mut self, _enabled: bool) {}

    fn update_memory(&mut self, memory: Memory) -> io::Result<()> {
        self.memory = memory;
        Ok(())
    }

    fn handle_event(
        &mut self,
        event: u16,
        _set: EventSet,
        vrings: &[VringRwLock],
        _thread: usize,
    ) -> io::Result<()> {
        if usize::from(event) == TRANSMIT {
            for answer in self.take(&vrings[TRANSMIT]).iter().filter_map(|frame| answer(frame)) {
                self.give(&vrings[RECEIVE], &answer);
            }
        }
        Ok(())
    }
}

/// What is sent back, which takes no new checksum: all that happens is that ends are exchanged.
fn answer(frame: &[u8]) -> Option<Vec<u8>> {
    const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
    let mut answer = frame.to_vec();
    let exchange = |answer: &mut Vec<u8>, one: usize, other: usize, length: usize| {
        for at in 0..length {
            answer.swap(one + at, other + at);
        }
    };
    let sender = frame.get(6..12)?;
    answer[..6].copy_from_slice(sender);
    answer[6..12].copy_from_slice(&OURS);
    match frame.get(12..14)? {
        // ARP: a request becomes a reply.
        [0x08, 0x06] if frame.len() >= 42 && frame[21] == 1 => {
            answer[21] = 2;
            exchange(&mut answer, 22, 32, 10);
            answer[22..28].copy_from_slice(&OURS);
        }
        // UDP in IPv4 without options.
        [0x08, 0x00] if frame.len() >= 42 && frame[14] == 0x45 && frame[23] == 17 => {
            exchange(&mut answer, 26, 30, 4);
            exchange(&mut answer, 34, 36, 2);
        }
        _ => return None,
    }
    Some(answer)
}
