//! The machine and its process.
#![forbid(unsafe_code)]

mod channel;
pub mod client;
pub mod config;
pub mod engine;
pub mod host;
pub mod process;
pub mod protocol;

pub use channel::ChannelError;
pub use client::{Controller, Launch, VmProcess, spawn};
pub use config::{Fds, MachineConfig};
