//! A directory of the host, shared with a guest: the server behind a virtio-fs device.
//!
//! It is a process of its own, one for each directory, in a jail whose root is that directory ([`process`]). The device is
//! in the VM process, and the two speak vhost-user over a socket. Why it is so:
//! `docs/decisions/0015-shared-directories-are-served-by-a-process.md`.
//!
//! - [`FileServer`]: requests of FUSE in, replies out. [`Settings`]: how the directory is shared.
//! - `backend`: rings in guest memory, and what the VM process says of them. `scatter`, alone with `unsafe`: files into it.
//! - `fuse`: the protocol. `inodes`, `handles`: what the guest knows and has open, both limited.
//!
//! # What a guest can reach
//!
//! Names are looked up one by one, from a descriptor of their directory, by `openat2` with `RESOLVE_BENEATH`: neither `..` nor
//! a link leads out, whatever anybody does to the directory meanwhile. Links are for the guest to follow. Nothing is opened
//! but files and directories, and devices are not made.
//!
//! # Hostile guests
//!
//! A guest may send anything. Nothing here may panic or loop without bound; lints deny what could.
#![deny(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod backend;
mod fuse;
mod guise;
mod handles;
mod inodes;
mod links;
pub mod process;
#[allow(unsafe_code, reason = "the kernel is told addresses of guest memory")]
mod scatter;
mod server;
mod settings;
#[cfg(test)]
mod testing;

pub use links::Links;
pub use server::{FileServer, LARGEST_DATA};
pub use settings::{Cache, Owners, Settings};
