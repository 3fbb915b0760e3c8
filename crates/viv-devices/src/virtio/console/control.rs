//! Control messages (VIRTIO 1.3, 5.3.6.2).

use super::port::Port;
use super::{ResizeOrder, Size};

/// Bytes of a message without what follows: port, event, value.
pub(super) const LENGTH: usize = 8;

/// Events.
pub(super) mod event {
    /// From the guest: the driver is ready for more.
    pub const DEVICE_READY: u16 = 0;
    /// To the guest: there is a port.
    pub const PORT_ADD: u16 = 1;
    /// From the guest: the port can be used.
    pub const PORT_READY: u16 = 3;
    /// To the guest: the port is a console.
    pub const CONSOLE_PORT: u16 = 4;
    /// To the guest: the console's window has this size.
    pub const RESIZE: u16 = 5;
    /// Both ways: the port was opened (1) or closed (0).
    pub const PORT_OPEN: u16 = 6;
    /// To the guest: the port has this name.
    pub const PORT_NAME: u16 = 7;
}

/// What a guest can be told of a port, in the order in which it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    Add,
    Console,
    Resize,
    Open,
    Name,
}

impl Message {
    pub(super) const ALL: [Self; 5] = [Self::Add, Self::Console, Self::Resize, Self::Open, Self::Name];

    /// Its bit in a set of messages.
    pub(super) const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// The bytes of a message about port `id`.
pub(super) fn encode(id: u32, message: Message, port: &Port, size: Size, order: ResizeOrder) -> Vec<u8> {
    let (event, value) = match message {
        Message::Add => (event::PORT_ADD, 1),
        Message::Console => (event::CONSOLE_PORT, 1),
        Message::Resize => (event::RESIZE, 1),
        Message::Open => (event::PORT_OPEN, u16::from(port.state.host_open)),
        Message::Name => (event::PORT_NAME, 1),
    };
    let mut bytes = Vec::with_capacity(LENGTH);
    bytes.extend(id.to_le_bytes());
    bytes.extend(event.to_le_bytes());
    bytes.extend(value.to_le_bytes());
    match message {
        Message::Resize => {
            let (first, second) = match order {
                ResizeOrder::RowsFirst => (size.rows, size.columns),
                ResizeOrder::ColumnsFirst => (size.columns, size.rows),
            };
            bytes.extend(first.to_le_bytes());
            bytes.extend(second.to_le_bytes());
        }
        Message::Name => bytes.extend(port.name.as_bytes()),
        Message::Add | Message::Console | Message::Open => {}
    }
    bytes
}

/// The port, event and value of a message.
pub(super) fn decode(message: [u8; LENGTH]) -> (u32, u16, u16) {
    let [a, b, c, d, e, f, g, h] = message;
    (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f]), u16::from_le_bytes([g, h]))
}
