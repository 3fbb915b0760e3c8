//! The conversation with a device's back end in another process: vhost-user, the machine's side of it
//! (<https://qemu.readthedocs.io/en/latest/interop/vhost-user.html>).
//!
//! A [`BackEnd`] is a process at the other end of a socket that does the work of a virtio device: it is told where guest
//! memory and the device's rings are, and from then on serves the rings by itself; who has something for the other writes to
//! an eventfd. What is in the rings is the device's subject, not this crate's.
//!
//! # Back ends are not trusted
//!
//! One that hangs keeps nobody longer than the patience that it was given: a thread of its own speaks with it
//! (`link.rs`), and who waits for that thread goes on without it. What it says is checked. With the first thing that is
//! wrong, and when it hangs up, it is lost for good: its socket is shut down, and every further question fails at once.
//!
//! A back end is given all of guest RAM, which it can read and write as it likes, and nothing else: not even addresses of
//! this process. The files that RAM is in are sealed, so that it cannot make them shorter. One thing is left to it that this
//! side cannot take away: eventfds have one set of flags for both sides, so a process that makes one block, and fills it, has
//! whoever writes to it next wait. `viv share` is not permitted to; others are as good as who started them.
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

mod back_end;
mod error;
mod event;
mod link;
#[cfg(test)]
mod tests;

pub use back_end::{BackEnd, PATIENCE, Region, RingPlace};
pub use error::{Error, Lost};
