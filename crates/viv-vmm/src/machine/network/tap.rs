//! Tap interfaces of the host.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex};

use rustix::event::epoll;
use viv_devices::virtio::{MAX_FRAME, Net, NetBackend, Offloads, Sent, VnetHeader};
use viv_tap::{HEADER, Tap};

use super::{Connected, Maker, Source, lock};
use crate::config::{FdSlot, Fds};
use crate::error::MachineError;

/// Takes over the queues of a tap interface.
pub(super) fn open(queues: &[FdSlot], fds: &Fds) -> Result<Vec<Arc<Tap>>, MachineError> {
    let open = |slot: &_| {
        let tap = Tap::new(fds.get(*slot)?).map_err(MachineError::host("use a tap interface"))?;
        Ok(Arc::new(tap))
    };
    queues.iter().map(open).collect()
}

/// Makes an interface with a pair of queues for each of a tap interface's queues.
pub(crate) fn connect(maker: Maker, taps: Vec<Arc<Tap>>) -> Connected {
    let several = taps.len() > 1;
    let backend = |tap: &Arc<Tap>| -> Box<dyn NetBackend> {
        Box::new(TapBackend { tap: Arc::clone(tap), several, attached: true })
    };
    let (network, mut sources) = maker.make(taps.iter().map(backend).collect());
    let source =
        |(pair, tap)| -> Box<dyn Source> { Box::new(TapSource { device: network.device(), pair, tap }) };
    sources.extend(taps.into_iter().enumerate().map(source));
    Connected { network, sources, device: None }
}

/// A queue of a tap interface, as its pair of queues sees it.
struct TapBackend {
    tap: Arc<Tap>,
    /// Whether the interface has others.
    several: bool,
    attached: bool,
}

// Both sides have the header of virtio.
const _: () = assert!(HEADER == VnetHeader::LENGTH);

impl NetBackend for TapBackend {
    fn offloads(&self) -> Offloads {
        Offloads::all()
    }

    fn set_guest_offloads(&mut self, offloads: Offloads) {
        let told = self.tap.set_offloads(viv_tap::Offloads {
            checksum: offloads.contains(Offloads::CHECKSUM),
            tso4: offloads.contains(Offloads::TSO4),
            tso6: offloads.contains(Offloads::TSO6),
        });
        // Frames that ask for more than the guest can do are dropped on their way to it.
        note("tell a tap interface what the guest can do", told);
    }

    fn set_active(&mut self, active: bool) {
        if self.several && self.attached != active {
            let changed = self.tap.set_attached(active);
            if changed.is_ok() {
                self.attached = active;
            }
            note("attach or detach a queue of a tap interface", changed);
        }
    }

    fn send(&mut self, header: &VnetHeader, frame: &[u8]) -> Sent {
        match self.tap.send(&header.to_bytes(0), frame) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Sent::Full,
            // A frame that the kernel does not like, or an interface that is down: it is lost.
            Ok(()) | Err(_) => Sent::Done,
        }
    }

    fn receive(&mut self, buffer: &mut Vec<u8>) -> Option<(VnetHeader, usize)> {
        buffer.resize(MAX_FRAME, 0);
        let mut header = [0; HEADER];
        let length = self.tap.receive(&mut header, buffer).ok()?;
        Some((VnetHeader::from_bytes(header), length))
    }
}

/// A queue of a tap interface, as the thread for network interfaces sees it.
struct TapSource {
    device: Arc<Mutex<Net>>,
    pair: usize,
    tap: Arc<Tap>,
}

impl Source for TapSource {
    fn fd(&self) -> BorrowedFd<'_> {
        self.tap.as_fd()
    }

    /// Frames that the guest has no room for stay in the interface.
    fn events(&self) -> epoll::EventFlags {
        epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET
    }

    fn ready(&mut self) {
        lock(&self.device).process_pair(self.pair);
    }
}

fn note(action: &str, done: io::Result<()>) {
    if let Err(error) = done {
        tracing::warn!(%error, "cannot {action}");
    }
}
