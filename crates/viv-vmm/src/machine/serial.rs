//! The serial line's two ends: a [`Uart`] and a stream of the host.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

use viv_devices::uart::{CharBackend, Uart};

use super::reactor::Source;
use crate::stream::HostStream;

/// The stream, as the UART sees it.
pub(crate) struct SerialBackend(pub(crate) Arc<HostStream>);

impl CharBackend for SerialBackend {
    fn transmit(&mut self, data: &[u8]) -> usize {
        self.0.write(data)
    }

    fn input_wanted(&mut self) {
        self.0.wake().set();
    }
}

/// The UART, as the stream's events see it.
pub(crate) struct SerialSource {
    pub(crate) uart: Arc<Mutex<Uart>>,
    pub(crate) stream: Arc<HostStream>,
}

impl Source for SerialSource {
    fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    fn ready(&mut self) {
        self.stream.wake().clear();
        let mut uart = self.uart.lock().unwrap_or_else(PoisonError::into_inner);
        uart.drain();
        self.stream.pump_input(|bytes| uart.enqueue(bytes));
    }
}
