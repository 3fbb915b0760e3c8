//! The machine and its process.
#![forbid(unsafe_code)]

mod channel;
pub mod client;
pub mod config;
pub mod engine;
mod error;
pub mod host;
mod machine;
pub mod process;
pub mod protocol;
pub mod snapshot;
mod stream;

pub use channel::ChannelError;
pub use client::{Controller, Launch, VmProcess, spawn};
pub use config::{Fds, MachineConfig};
