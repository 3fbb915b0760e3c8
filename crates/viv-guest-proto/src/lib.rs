//! What the host and the program inside a guest say to each other.
//!
//! `viv-guest` is the first process of a light guest. It and the host are joined by a virtio console device
//! with named ports (VIRTIO 1.3, section 5.3):
//!
//! | port | carries |
//! |---|---|
//! | [`CONTROL_PORT`] | the messages of this crate, both ways |
//! | [`STDIN_PORT`] | bytes for the program's standard input |
//! | [`STDOUT_PORT`], [`STDERR_PORT`] | what the program writes |
//! | the console itself (`/dev/hvc0`) | everything, when the program is given a terminal |
//!
//! # A conversation
//!
//! 1. The host connects all ports (`VIRTIO_CONSOLE_PORT_OPEN` with value 1) as soon as the driver has them.
//! 2. The guest says [`GuestMessage::Ready`] once it has its root file system *and* has seen the host
//!    connected to all four ports. It exits with [`GuestMessage::Failed`] if it cannot get that far.
//! 3. The host answers with one [`HostMessage::Run`], then with any number of the other messages.
//! 4. When the program ends the guest writes out what is left of its output, says
//!    [`GuestMessage::Exited`], writes back and unmounts its file systems, and powers off.
//!
//! Two rules follow from how Linux's driver works (`drivers/char/virtio_console.c`):
//!
//! * End of input is the host closing [`STDIN_PORT`]. It may do so only after `Ready`, since to the guest a
//!   port that is not connected yet and one that is closed look the same, and only after all data has been
//!   put into the port's queue.
//! * Ports are separate queues, so `Exited` may overtake the last output. Output is complete when the guest
//!   has powered off. If the host closes [`STDOUT_PORT`] or [`STDERR_PORT`] the program sees a broken pipe.
//!
//! # Framing
//!
//! A frame is a 32-bit little-endian length and that many bytes of [postcard](https://postcard.jamesmunns.com)
//! encoding, at most [`MAX_PAYLOAD`]. Neither side trusts the other: [`Decoder`] holds at most one frame and
//! what was pushed last, and refuses a frame that is too long before it reads it. After an error a stream
//! cannot be picked up again and is to be closed.
//!
//! Variants and fields are only ever added at the end, with [`VERSION`] raised; guest and host come from one
//! build, so nothing here needs to read an older peer.
#![forbid(unsafe_code)]

mod frame;
mod message;

pub use frame::{DecodeError, Decoder, EncodeError, MAX_PAYLOAD, encode};
pub use message::{GuestMessage, HostMessage, Interface, Mount, Run, Terminal, WindowSize};

/// Version of the messages, told in [`GuestMessage::Ready`].
pub const VERSION: u16 = 3;

/// Name of the port that carries the messages of this crate.
pub const CONTROL_PORT: &str = "viv.control";
/// Name of the port that carries the program's standard input.
pub const STDIN_PORT: &str = "viv.stdin";
/// Name of the port that carries the program's standard output.
pub const STDOUT_PORT: &str = "viv.stdout";
/// Name of the port that carries the program's standard error.
pub const STDERR_PORT: &str = "viv.stderr";
