//! virtio-vsock: sockets between the guest and its host (VIRTIO 1.3, 5.10).
//!
//! Only streams, and only between the guest and the host. A connection is a pair of ports ([`connection`]); all of them
//! share the device's queues ([`table`]). What one leads to on the host is a [`VsockStream`], and where the guest's own
//! connections go, a [`VsockHost`] knows.
//!
//! # Who waits for whom
//!
//! The queues belong to all connections, so none may keep them: what the guest sends to a host that does not take it is
//! held here, and the guest has credit for no more than that ([`connection::BUFFER`]). Towards the guest nothing is held:
//! a stream is read as far as the guest has credit and buffers. Connections take turns, packet by packet. What the guest
//! is to be told is kept as a few bits of each connection; where it is of none, as a short list, and while that is full the
//! guest's packets wait in their ring.
//!
//! # The end
//!
//! Each direction ends by itself. When the host's end has no more bytes the guest is told that none will be sent; when the
//! host's end is closed, also that none will be taken. When the guest ends both, what it sent before is passed on first,
//! even if the guest forgets the connection meanwhile.
//!
//! # Saved machines
//!
//! Connections do not outlive the process. A guest that had some is told after it is restored that they are gone, by the
//! event for that; those that a driver's reset finds are closed.
//!
//! The `virtio-vsock` crate reads packets from descriptors that it follows by itself. Chains come here checked
//! ([`Chain`](super::Chain)), so the header alone is left to read (`regs.rs`).

mod connection;
mod host;
mod regs;
mod state;
mod table;
#[cfg(test)]
mod tests;

use super::device::{Kind, QueueResources, QueueState, VirtioDevice};
use super::queue::{Outcome, RingError, Virtqueue};
use super::read_config_bytes;
use crate::{DeviceError, SavedState};
use regs::{Header, TRANSPORT_RESET, feature, queue};
use state::VsockState;
use table::{HOST_PORTS, Table};

pub use host::{Gone, VsockHost, VsockStream};

const QUEUE_SIZE: u16 = 256;
const EVENT_QUEUE_SIZE: u16 = 16;
/// The most bytes of a packet to the guest.
const MAX_DATA: usize = 64 << 10;

/// A device for sockets.
pub struct Vsock {
    table: Table,
    queues: [Option<Virtqueue>; 3],
    /// Whether the guest has to be told that its connections are gone.
    lost: bool,
    /// Bytes on their way.
    data: Vec<u8>,
}

impl Vsock {
    /// The most connections at a time, those included that are not open yet.
    pub const MAX_CONNECTIONS: usize = table::MAX_CONNECTIONS;

    /// One for a guest with this address, whose connections go to `host`.
    #[must_use]
    pub fn new(guest_cid: u32, host: Box<dyn VsockHost>) -> Self {
        let table = Table::new(guest_cid.into(), host);
        Self { table, queues: [const { None }; 3], lost: false, data: vec![0; Table::LONGEST] }
    }

    /// Connects a stream to a port of the guest's. Gives the connection's number; `None`, and the stream is closed, when
    /// the guest has no working driver or there are too many.
    pub fn connect(&mut self, stream: Box<dyn VsockStream>, guest_port: u32) -> Option<u64> {
        self.queue(queue::RECEIVE).filter(|queue| !queue.interrupt().is_broken())?;
        let id = self.table.offer(stream, guest_port);
        self.send();
        id
    }

    /// Says what came of [`VsockHost::connect`]: the stream, or that there is none. The connection may be gone.
    pub fn answer(&mut self, connection: u64, stream: Option<Box<dyn VsockStream>>) {
        self.table.answer(connection, stream);
        self.send();
    }

    /// A connection's stream has bytes or room, or came to its end.
    pub fn process_stream(&mut self, connection: u64) {
        self.table.process_stream(connection);
        self.send();
    }

    /// Closes all connections and has the guest told.
    #[cfg(test)]
    pub(crate) fn lose_connections(&mut self) {
        self.lost |= !self.table.is_empty();
        self.table.clear();
        self.send_event();
    }

    fn queue(&mut self, index: u16) -> Option<&mut Virtqueue> {
        self.queues.get_mut(usize::from(index))?.as_mut()
    }

    /// Packets to the guest.
    fn send(&mut self) {
        let was_full = self.table.is_full();
        let Self { table, queues: [Some(receive), ..], data, .. } = self else { return };
        receive.serve(|chain| {
            let room = usize::try_from(chain.writable.remaining()).unwrap_or(usize::MAX);
            let Some(room) = room.checked_sub(Header::LENGTH) else { return Ok(Outcome::Done(0)) };
            let room = data.get_mut(..room.min(MAX_DATA)).unwrap_or_default();
            let Some(header) = table.next_packet(room) else { return Ok(Outcome::Later) };
            let mut written = chain.writable.write(&header.to_bytes())?;
            let length = usize::try_from(header.len).unwrap_or_default();
            written = written.saturating_add(chain.writable.write(data.get(..length).unwrap_or_default())?);
            Ok(Outcome::Done(u32::try_from(written).unwrap_or(u32::MAX)))
        });
        if was_full
            && !self.table.is_full()
            && let Some(transmit) = self.queue(queue::TRANSMIT)
        {
            transmit.ring();
        }
    }

    /// Packets from the guest.
    fn receive(&mut self) {
        let Self { table, queues: [_, Some(transmit), _], data, .. } = self else { return };
        transmit.serve(|chain| {
            if table.is_full() {
                return Ok(Outcome::Later);
            }
            let mut header = [0; Header::LENGTH];
            if chain.readable.read(&mut header)? < header.len() {
                return Ok(Outcome::Done(0));
            }
            let header = Header::from_bytes(header);
            let length = usize::try_from(header.len).unwrap_or(usize::MAX);
            let mut data =
                data.get_mut(..length).filter(|_| u64::from(header.len) <= chain.readable.remaining());
            if let Some(data) = &mut data {
                chain.readable.read(data)?;
            }
            table.receive(&header, data.as_deref());
            Ok(Outcome::Done(0))
        });
    }

    fn send_event(&mut self) {
        let Self { queues: [.., Some(event)], lost, .. } = self else { return };
        event.serve(|chain| {
            if !std::mem::take(lost) {
                return Ok(Outcome::Later);
            }
            let written = chain.writable.write(&TRANSPORT_RESET.to_le_bytes())?;
            Ok(Outcome::Done(u32::try_from(written).unwrap_or(u32::MAX)))
        });
    }
}

impl VirtioDevice for Vsock {
    fn kind(&self) -> Kind {
        Kind { id: 19, class: 0x07_80_00 }
    }

    fn features(&self) -> u64 {
        feature::STREAM
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE, QUEUE_SIZE, EVENT_QUEUE_SIZE]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.table.guest_cid.to_le_bytes(), offset, data);
    }

    fn start_queue(
        &mut self,
        resources: QueueResources,
        features: u64,
        state: QueueState,
    ) -> Result<(), RingError> {
        let index = usize::from(resources.index);
        let queue = Virtqueue::new(resources, features, state)?;
        if let Some(slot) = self.queues.get_mut(index) {
            *slot = Some(queue);
        }
        Ok(())
    }

    fn stop_queue(&mut self, index: u16) -> Option<QueueState> {
        Some(self.queues.get_mut(usize::from(index))?.take()?.state())
    }

    fn process_queue(&mut self, index: u16) {
        match index {
            queue::RECEIVE => self.send(),
            queue::TRANSMIT => {
                self.receive();
                self.send();
            }
            queue::EVENT => self.send_event(),
            _ => {}
        }
    }

    fn reset(&mut self) {
        self.table.clear();
        self.lost = false;
    }

    fn save(&self) -> Result<SavedState, DeviceError> {
        let state = VsockState {
            guest_cid: self.table.guest_cid,
            next_port: self.table.next_port,
            lost: self.lost || !self.table.is_empty(),
        };
        SavedState::encode(VsockState::NAME, VsockState::VERSION, &state)
    }

    /// The guest's address is this device's, of which the guest is told if it had another.
    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        let state: VsockState = state.decode(VsockState::VERSION)?;
        if !HOST_PORTS.contains(&state.next_port) {
            let reason = format!("its next port is {}", state.next_port);
            return Err(DeviceError::Invalid { name: VsockState::NAME.to_owned(), reason });
        }
        self.table.clear();
        self.table.next_port = state.next_port;
        self.lost = state.lost || state.guest_cid != self.table.guest_cid;
        Ok(())
    }
}
