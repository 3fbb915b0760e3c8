//! virtio-console: terminals and named byte streams (VIRTIO 1.3, 5.3).
//!
//! A device has ports. Each is a pair of queues for bytes, and has a back end on the host, a [`PortBackend`]. Port 0
//! is usually a console, Linux's `hvc0`; others have names, by which a guest finds them in
//! `/sys/class/virtio-ports/*/name`. Two more queues carry the control messages by which ports come into being, get
//! their names, are opened and closed (5.3.6.2).
//!
//! # Bytes
//!
//! Nothing is buffered here, so nothing is lost: what the back end does not take stays in the guest's
//! buffers, and what the guest has no room for stays with the back end. The machine calls
//! [`Console::process_port`] whenever a back end has become ready to be read or written (an edge-triggered
//! notice will do); the guest's side comes by the doorbell.
//!
//! # Control messages
//!
//! What is to be told to the guest is kept as one bit for each port and message, not as a queue, so a guest that does
//! not listen costs no memory, and a state that changed twice is told once. Messages of a port go out in the order of
//! [`Message`]: PORT_OPEN before PORT_NAME, so that a guest program that finds a port by its name finds it open.
//!
//! # The end of input
//!
//! When the back end has no more bytes, ever, the guest gets PORT_OPEN with value 0 after the last of them is in its
//! buffers; Linux then lets readers have those bytes, and after them the end of file. Bytes go only to ports that the
//! guest has opened, because Linux throws away what arrives before.

mod control;
mod port;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use super::device::{Kind, QueueResources, QueueState, VirtioDevice};
use super::queue::{Outcome, RingError, Virtqueue};
use super::read_config_bytes;
use crate::{DeviceError, SavedState};
use control::{Message, event};
use port::{Port, PortState};

pub use port::{Input, PortBackend, PortConfig};

/// Feature bits (5.3.3).
mod feature {
    /// Columns and rows are in the configuration space.
    pub const SIZE: u64 = 1 << 0;
    /// There are several ports, and control messages.
    pub const MULTIPORT: u64 = 1 << 1;
}

/// The control queues (5.3.2).
const CONTROL_RECEIVE: u16 = 2;
const CONTROL_TRANSMIT: u16 = 3;

/// The most ports: with the control queues, 64 queues.
const MAX_PORTS: usize = 31;
const QUEUE_SIZE: u16 = 64;

/// In which order the two numbers of a RESIZE message are.
///
/// The specification (5.3.6.2) says columns first. Linux has read rows first from 2010 on, was changed to the
/// specification's order in commit 5326ab737a47 (2025), and there is no way to find out which a guest has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ResizeOrder {
    /// As Linux had it, Debian 12's included.
    #[default]
    RowsFirst,
    /// As the specification says.
    ColumnsFirst,
}

/// A window's size in characters; 0 by 0 if unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Size {
    columns: u16,
    rows: u16,
}

/// A virtio console device.
pub struct Console {
    ports: Vec<Port>,
    size: Size,
    resize_order: ResizeOrder,
    queues: Vec<Option<Virtqueue>>,
    /// Whether the driver knows of several ports.
    multiport: bool,
}

#[derive(Serialize, Deserialize)]
struct ConsoleState {
    size: Size,
    ports: Vec<PortState>,
}

const NAME: &str = "virtio-console";
const VERSION: u16 = 1;

/// Which queue this is, with the driver's view of its direction (5.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Receive(usize),
    Transmit(usize),
    ControlReceive,
    ControlTransmit,
}

impl Role {
    const fn of(index: u16) -> Self {
        // Ports 0, 1, 2 have queues 0 and 1, 4 and 5, 6 and 7.
        let port = match index / 2 {
            0 => 0,
            pair => pair.saturating_sub(1) as usize,
        };
        match index {
            CONTROL_RECEIVE => Self::ControlReceive,
            CONTROL_TRANSMIT => Self::ControlTransmit,
            _ if index.is_multiple_of(2) => Self::Receive(port),
            _ => Self::Transmit(port),
        }
    }

    const fn queue(self) -> usize {
        match self {
            Self::Receive(0) => 0,
            Self::Transmit(0) => 1,
            Self::ControlReceive => CONTROL_RECEIVE as usize,
            Self::ControlTransmit => CONTROL_TRANSMIT as usize,
            Self::Receive(port) => port.saturating_mul(2).saturating_add(2),
            Self::Transmit(port) => port.saturating_mul(2).saturating_add(3),
        }
    }
}

impl Console {
    /// A device with these ports, of which at most 31 are used.
    #[must_use]
    pub fn new(ports: Vec<PortConfig>, resize_order: ResizeOrder) -> Self {
        let ports: Vec<_> = ports.into_iter().take(MAX_PORTS).map(Port::new).collect();
        let queues = ports.len().max(1).saturating_mul(2).saturating_add(2);
        let queues = std::iter::repeat_with(|| None).take(queues).collect();
        Self { ports, size: Size::default(), resize_order, queues, multiport: false }
    }

    /// The window of the consoles has another size: the guest gets to know.
    pub fn resize(&mut self, columns: u16, rows: u16) {
        let size = Size { columns, rows };
        if self.size == size {
            return;
        }
        self.size = size;
        for port in self.ports.iter_mut().filter(|port| port.console && port.state.ready) {
            port.state.tell(Message::Resize);
        }
        if let Some(queue) = self.queues.iter().flatten().next() {
            queue.interrupt().config_changed();
        }
        self.send_control();
    }

    /// The back end of port `index` has bytes, room, or reached its end.
    pub fn process_port(&mut self, index: usize) {
        self.send_bytes(index);
        self.receive_bytes(index);
    }

    /// Whether the guest has port `index` open.
    #[must_use]
    pub fn is_open(&self, index: usize) -> bool {
        self.ports.get(index).is_some_and(|port| self.takes_bytes(port))
    }

    fn takes_bytes(&self, port: &Port) -> bool {
        !self.multiport || port.state.guest_open
    }

    fn queue(&mut self, role: Role) -> Option<&mut Virtqueue> {
        self.queues.get_mut(role.queue())?.as_mut()
    }

    /// From the host to the guest.
    fn send_bytes(&mut self, index: usize) {
        let open = self.is_open(index);
        let Some(port) = self.ports.get_mut(index).filter(|port| open && port.state.host_open) else {
            return;
        };
        let Some(queue) = self.queues.get_mut(Role::Receive(index).queue()).and_then(Option::as_mut) else {
            return;
        };
        queue.serve(|chain| port.fill(&mut chain.writable));
        if !port.state.host_open {
            self.send_control();
        }
    }

    /// From the guest to the host.
    fn receive_bytes(&mut self, index: usize) {
        let Some(port) = self.ports.get_mut(index) else { return };
        let Some(queue) = self.queues.get_mut(Role::Transmit(index).queue()).and_then(Option::as_mut) else {
            return;
        };
        queue.serve(|chain| port.drain(&mut chain.readable));
    }

    /// Tells the guest what it is to be told, as far as it listens.
    fn send_control(&mut self) {
        let Self { ports, size, resize_order, queues, .. } = self;
        let Some(queue) = queues.get_mut(Role::ControlReceive.queue()).and_then(Option::as_mut) else {
            return;
        };
        queue.serve(|chain| {
            let waiting = ports.iter_mut().zip(0..).find_map(|(port, id)| {
                let message = port.state.next_message()?;
                Some(control::encode(id, message, port, *size, *resize_order))
            });
            let Some(bytes) = waiting else { return Ok(Outcome::Later) };
            let written = chain.writable.write(&bytes)?;
            Ok(Outcome::Done(u32::try_from(written).unwrap_or(u32::MAX)))
        });
    }

    /// Hears what the guest has to tell.
    fn receive_control(&mut self) {
        let mut heard = Vec::new();
        if let Some(queue) = self.queue(Role::ControlTransmit) {
            queue.serve(|chain| {
                let mut message = [0; control::LENGTH];
                if chain.readable.read(&mut message)? == message.len() {
                    heard.push(control::decode(message));
                }
                Ok(Outcome::Done(0))
            });
        }
        for (id, event, value) in heard {
            self.control(id, event, value != 0);
        }
        self.send_control();
    }

    fn control(&mut self, id: u32, event: u16, value: bool) {
        if event == event::DEVICE_READY {
            for port in self.ports.iter_mut().filter(|_| value) {
                port.state.tell(Message::Add);
            }
            return;
        }
        let Some(index) = usize::try_from(id).ok().filter(|index| *index < self.ports.len()) else { return };
        let Some(port) = self.ports.get_mut(index) else { return };
        match event {
            event::PORT_READY if value => port.ready(self.size != Size::default()),
            event::PORT_OPEN => {
                port.set_guest_open(value);
                self.process_port(index);
            }
            _ => {}
        }
    }
}

impl VirtioDevice for Console {
    fn kind(&self) -> Kind {
        Kind { id: 3, class: 0x07_80_00 }
    }

    fn features(&self) -> u64 {
        feature::SIZE | feature::MULTIPORT
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; self.queues.len()]
    }

    /// Columns, rows, number of ports (5.3.4).
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let ports = u32::try_from(self.ports.len()).unwrap_or(u32::MAX);
        let mut config = Vec::with_capacity(8);
        config.extend(self.size.columns.to_le_bytes());
        config.extend(self.size.rows.to_le_bytes());
        config.extend(ports.to_le_bytes());
        read_config_bytes(&config, offset, data);
    }

    fn start_queue(
        &mut self,
        resources: QueueResources,
        features: u64,
        state: QueueState,
    ) -> Result<(), RingError> {
        self.multiport = features & feature::MULTIPORT != 0;
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
        match Role::of(index) {
            Role::Receive(port) => self.send_bytes(port),
            Role::Transmit(port) => self.receive_bytes(port),
            Role::ControlReceive => self.send_control(),
            Role::ControlTransmit => self.receive_control(),
        }
    }

    fn reset(&mut self) {
        self.multiport = false;
        for port in &mut self.ports {
            port.reset();
        }
    }

    fn save(&self) -> Result<SavedState, DeviceError> {
        let ports = self.ports.iter().map(|port| port.state).collect();
        SavedState::encode(NAME, VERSION, &ConsoleState { size: self.size, ports })
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        let state: ConsoleState = state.decode(VERSION)?;
        if state.ports.len() != self.ports.len() {
            let reason = format!("it had {} ports and has {}", state.ports.len(), self.ports.len());
            return Err(DeviceError::Invalid { name: NAME.to_owned(), reason });
        }
        self.size = state.size;
        for (port, saved) in self.ports.iter_mut().zip(state.ports) {
            port.restore(saved);
        }
        Ok(())
    }
}
