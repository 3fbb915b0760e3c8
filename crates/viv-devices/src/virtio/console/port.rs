//! A port: its back end, and how far guest and host have got with it.

use serde::{Deserialize, Serialize};

use super::control::Message;
use crate::virtio::chain::Buffers;
use crate::virtio::queue::{Outcome, RingError};

/// How many bytes are moved at a time.
const CHUNK: usize = 4096;
/// How many bytes of the guest's are taken before others have their turn.
const TURN: usize = 1 << 20;

/// What a back end has to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// So many bytes, at least one.
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// Nothing any more.
    End,
}

/// The host's side of a port. Nothing here may block.
pub trait PortBackend: Send {
    /// Takes bytes from the guest, as many as it can, and returns how many. When it has taken fewer than
    /// there were, [`Console::process_port`](super::Console::process_port) is to be called once there is room again.
    /// One whose other end is gone takes them all, and drops them.
    fn write(&mut self, data: &[u8]) -> usize;

    /// Gives bytes for the guest, as many as `data` can hold, which is never empty. After [`Input::Nothing`],
    /// [`Console::process_port`](super::Console::process_port) is to be called once there are some. After
    /// [`Input::End`] it is not asked again, unless the guest resets the device.
    fn read(&mut self, data: &mut [u8]) -> Input;

    /// The guest has opened or closed the port.
    fn set_guest_open(&mut self, _open: bool) {}
}

/// A port to be made.
pub struct PortConfig {
    /// Its name, for ports that are found by it; empty for none.
    pub name: String,
    /// Whether it is a console.
    pub console: bool,
    /// The host's side.
    pub backend: Box<dyn PortBackend>,
}

pub(super) struct Port {
    pub(super) name: String,
    pub(super) console: bool,
    backend: Box<dyn PortBackend>,
    pub(super) state: PortState,
}

/// What of a port is saved.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct PortState {
    /// The driver knows it and can use it.
    pub(super) ready: bool,
    pub(super) guest_open: bool,
    /// False once the back end has come to its end.
    pub(super) host_open: bool,
    /// The messages that the guest is to get, by [`Message::bit`].
    messages: u8,
    /// How many bytes of the guest's first waiting buffers the back end has taken.
    taken: u32,
}

impl PortState {
    const INITIAL: Self = Self { ready: false, guest_open: false, host_open: true, messages: 0, taken: 0 };

    pub(super) fn tell(&mut self, message: Message) {
        self.messages |= message.bit();
    }

    /// Takes the next message that the guest is to get.
    pub(super) fn next_message(&mut self) -> Option<Message> {
        let message = Message::ALL.into_iter().find(|message| self.messages & message.bit() != 0)?;
        self.messages &= !message.bit();
        Some(message)
    }
}

impl Port {
    pub(super) fn new(config: PortConfig) -> Self {
        let PortConfig { name, console, backend } = config;
        Self { name, console, backend, state: PortState::INITIAL }
    }

    /// The driver can use it: the guest gets to know all about it.
    pub(super) fn ready(&mut self, size_known: bool) {
        self.state.ready = true;
        let messages = [
            (Message::Console, self.console),
            (Message::Resize, self.console && size_known),
            // A guest takes it to be closed until told.
            (Message::Open, self.state.host_open),
            (Message::Name, !self.name.is_empty()),
        ];
        for (message, _) in messages.into_iter().filter(|(_, wanted)| *wanted) {
            self.state.tell(message);
        }
    }

    pub(super) fn set_guest_open(&mut self, open: bool) {
        if self.state.guest_open != open {
            self.state.guest_open = open;
            self.backend.set_guest_open(open);
        }
    }

    /// Fills a buffer of the guest's with bytes of the back end's.
    pub(super) fn fill(&mut self, buffers: &mut Buffers) -> Result<Outcome, RingError> {
        if !self.state.host_open {
            return Ok(Outcome::Later);
        }
        let room = usize::try_from(buffers.remaining()).unwrap_or(CHUNK).min(CHUNK);
        if room == 0 {
            return Ok(Outcome::Done(0));
        }
        let mut data = [0; CHUNK];
        match self.backend.read(data.get_mut(..room).unwrap_or_default()) {
            Input::Bytes(count) => {
                let written = buffers.write(data.get(..count.min(room)).unwrap_or_default())?;
                Ok(Outcome::Done(u32::try_from(written).unwrap_or(u32::MAX)))
            }
            Input::Nothing => Ok(Outcome::Later),
            Input::End => {
                self.state.host_open = false;
                self.state.tell(Message::Open);
                Ok(Outcome::Later)
            }
        }
    }

    /// Gives a buffer of the guest's to the back end.
    pub(super) fn drain(&mut self, buffers: &mut Buffers) -> Result<Outcome, RingError> {
        buffers.skip(self.state.taken as usize)?;
        let mut data = [0; CHUNK];
        for _ in 0..TURN / CHUNK {
            let count = buffers.read(&mut data)?;
            if count == 0 {
                self.state.taken = 0;
                return Ok(Outcome::Done(0));
            }
            let taken = self.backend.write(data.get(..count).unwrap_or_default()).min(count);
            self.state.taken = self.state.taken.saturating_add(u32::try_from(taken).unwrap_or(u32::MAX));
            if taken < count {
                return Ok(Outcome::Later);
            }
        }
        Ok(Outcome::Continues)
    }

    pub(super) fn reset(&mut self) {
        self.set_guest_open(false);
        self.state = PortState::INITIAL;
    }

    pub(super) fn restore(&mut self, state: PortState) {
        self.set_guest_open(state.guest_open);
        self.state = state;
    }
}
