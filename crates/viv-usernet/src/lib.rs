//! The user-mode network of a virtual machine: a router in the process, between a guest and the host's sockets.
//!
//! It needs no privilege, no helper program and no interface on the host. What the guest sends is taken apart here, and
//! leaves as data of the process's own sockets; what comes in on them is put into frames. A guest sees a router, a name
//! server and the world behind them; the host sees a process that connects.
//!
//! - [`UserNet`]: the router. [`Config`]: its addresses, and what the guest may reach.
//! - [`Offload`]: what a frame leaves to whoever sends or receives it, as in `struct virtio_net_hdr`.
//!
//! Inside: `frame` takes frames apart and builds them; `link` answers ARP and neighbour discovery, `dhcp` hands out the
//! address; `tcp` ends the guest's connections and splices them to sockets; `datagram` does the same for UDP, echo
//! requests and the questions to the name server (`dns`); `publish` is what listens on the host; `policy` says what may be
//! reached; `host` has the descriptors and the timers; `saved` is what outlasts a router.
//!
//! # How it is driven
//!
//! There is no thread and no callback. The owner waits for [`UserNet::fd`], which is readable when [`UserNet::poll`] has
//! something to do, and hands frames over by [`UserNet::send`]. After either, and when the guest has made room, it
//! takes frames by [`UserNet::receive`] until there are none. What the guest has no room for stays in the host's
//! sockets, whose senders wait.
//!
//! # Hostile guests
//!
//! A guest may send anything in any order. Nothing here may panic or loop without bound; lints deny what could. Connections,
//! flows, replies that wait, fragments and buffered bytes are limited ([`Config::limits`]). What is beyond a limit is
//! refused or dropped, which harms the guest alone.
#![forbid(unsafe_code)]
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

mod config;
mod core;
mod datagram;
mod dhcp;
mod dns;
mod error;
mod flow;
mod frame;
mod host;
mod icmp;
mod link;
mod offload;
mod policy;
mod publish;
mod reassembly;
mod resolvers;
mod router;
mod saved;
mod slots;
mod tcp;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod timers;

pub use config::{Config, Ipv4Network, Ipv6Network, Limits, Protocol, Publish};
pub use error::Error;
pub use offload::{Checksum, GuestOffloads, Offload, Segment, SegmentKind};
pub use router::UserNet;
pub use saved::Saved;
