//! Messages on their way to the starter.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::net::SendFlags;

use crate::channel::{self, ChannelError};
use crate::protocol::Message;

/// How much may wait for a starter that does not read, in bytes.
const LIMIT: usize = 4 << 20;

/// Lines that the socket has not taken yet.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    bytes: Vec<u8>,
}

impl Outgoing {
    /// Adds a message and sends what the socket takes now.
    ///
    /// # Errors
    /// When the starter has gone, or does not read.
    pub(super) fn send(&mut self, socket: BorrowedFd<'_>, message: &Message) -> Result<(), ChannelError> {
        let line = channel::encode(message)?;
        if self.bytes.len().saturating_add(line.len()) > LIMIT {
            return Err(failed(io::ErrorKind::TimedOut.into()));
        }
        self.bytes.extend(line);
        self.flush(socket, SendFlags::DONTWAIT)
    }

    /// Sends what the socket takes, or everything if `flags` do not say otherwise.
    pub(super) fn flush(&mut self, socket: BorrowedFd<'_>, flags: SendFlags) -> Result<(), ChannelError> {
        while !self.bytes.is_empty() {
            match channel::send(socket, &self.bytes, &[], flags) {
                Ok(sent) => drop(self.bytes.drain(..sent.min(self.bytes.len()))),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    /// Whether something waits.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

fn failed(source: io::Error) -> ChannelError {
    ChannelError::Socket { action: "sending", source }
}
