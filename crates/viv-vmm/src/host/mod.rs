//! What this host offers to guests.
//!
//! [`HostFacts`] are read once, from files; [`HostFacts::findings`] says what they mean to a user, and
//! [`engine::choose`](crate::engine::choose) which engine follows from them.

mod facts;
mod findings;

pub(crate) use facts::host_memory;
#[cfg(test)]
pub(crate) use facts::tests;
pub use facts::{Cgroups, HostFacts, KvmBacking, UserNamespaces};
pub use findings::{Finding, FindingStatus};
