//! The machine, and the process that it lives in.
//!
//! - [`config`]: what a machine is made of. [`protocol`]: what its process and the one who started it say to
//!   each other. [`client`]: the starter's side: [`spawn`] gives a [`VmProcess`]. [`process`]: the other side.
//! - [`Machine`]: memory, processors and devices, put together from a config; run, paused, reset, saved and
//!   restored as a whole.
//! - [`connector`]: what the starter does for a process that cannot reach the host's sockets.
//! - [`snapshot`]: a whole machine as bytes. [`keys`]: what can be typed on its keyboard.
//! - [`engine`]: which engine runs a machine, and why. [`host`]: what the host offers.
//!
//! This is where engines meet devices; it is the only crate that knows both. It knows nothing of images,
//! terminals or users: descriptors and paths come in by the config, and what happens goes out as events.
//!
//! The guest, its disks and snapshots are hostile; so is, within the bounds of the protocol, whoever holds the
//! control socket. What goes wrong with one request is that request's reply, in one line; what ends the
//! machine is the last event. A panic ends the process with a message.
#![forbid(unsafe_code)]

mod channel;
pub mod client;
pub mod config;
pub mod connector;
mod debugger;
pub mod engine;
mod error;
pub mod host;
pub mod keys;
mod machine;
mod picture;
pub mod process;
pub mod protocol;
pub mod snapshot;
mod stream;

pub use channel::ChannelError;
pub use client::{Controller, Launch, VmProcess, spawn};
pub use config::{Fds, MachineConfig};
pub use error::MachineError;
pub use machine::{Machine, Notice};
