//! The jail of a process that runs what it does not trust.
//!
//! - [`fork`] splits the process while it has one thread: the [`Inmate`] goes on, its [`Supervisor`] waits and tells how it
//!   died.
//! - [`Inmate::enter`] takes away what a process can reach: namespaces of its own, a root directory with nothing in it, no
//!   capabilities, Landlock, limits. What must be open is open by then.
//! - [`spawn`] starts threads, each under the filter of system calls of its [`ThreadKind`]; [`Jail::lock`] ends the time in
//!   which there can be more of them, and puts the caller under its own.
//!
//! What the host does not permit is left out, and told by [`Jail::missing`]. The filters' lists are in one place,
//! `filter/lists.rs`; what each is for, and what the jail is not, is in `docs/security/jail.md`.
//!
//! [`Inmate::enter_directory`] is the way into another jail, whose root is one directory of the host, for the process that
//! serves it to a guest.
//!
//! It must not know what runs inside: it is told the kinds of threads, and whether they use KVM.
#![deny(unsafe_code)]

mod filter;
mod landlock;
mod last_words;
mod limits;
mod namespaces;
mod privileges;
mod process;
mod share;
mod stage;
mod system;
mod threads;

pub use filter::ThreadKind;
pub use limits::permit_sockets;
pub use process::{Fate, Forked, Inmate, Supervisor, close_others, fork};
pub use share::SharedDirectory;
pub use stage::{Inside, Jail, JailError};
pub use threads::spawn;
