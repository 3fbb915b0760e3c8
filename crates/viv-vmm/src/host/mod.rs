//! What this host offers to guests.
//!
//! [`HostFacts`] and [`KernelFacts`] are read once, from files; their `findings` say what they mean to a user, and
//! [`engine::choose`](crate::engine::choose) which engine follows from the former.

mod facts;
mod findings;
mod kernel;
mod kernel_findings;

pub(crate) use facts::host_memory;
#[cfg(test)]
pub(crate) use facts::tests;
pub use facts::{Cgroups, HostFacts, KvmBacking, UserNamespaces};
pub use findings::{Finding, FindingStatus};
pub use kernel::{Allowed, CONTROLLERS, Device, KernelFacts, Landlock, NAMESPACES};
