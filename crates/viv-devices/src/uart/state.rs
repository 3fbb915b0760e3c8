//! The saved state of a [`Uart`](super::Uart).

use serde::{Deserialize, Serialize};

/// Version 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct UartState {
    pub(super) divisor: u16,
    pub(super) interrupt_enable: u8,
    pub(super) fifo_control: u8,
    pub(super) line_control: u8,
    pub(super) modem_control: u8,
    pub(super) modem_status: u8,
    pub(super) scratch: u8,
    pub(super) overrun: bool,
    /// The transmitter became empty and the guest has not been told.
    pub(super) transmitter_event: bool,
    pub(super) received: Vec<u8>,
    /// Bytes on their way out that the host has not taken yet.
    pub(super) transmitting: Vec<u8>,
}

impl UartState {
    pub(super) const VERSION: u16 = 1;
}
