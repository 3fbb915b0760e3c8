//! From a kernel file to a vCPU about to execute its first instruction.
//!
//! - [`kernel`]: kernel files: bzImage and ELF, unpacked on the host whatever they are packed with.
//! - [`acpi`], [`smbios`]: the tables by which the machine describes itself to its guest.
//! - [`load`]: puts kernel, initrd, command line and tables into guest memory and gives the state in which
//!   vCPU 0 starts, by one of three [`Protocol`]s: Linux's own 64-bit one (the `linux` module), PVH (`pvh`), or
//!   Multiboot (`multiboot`). It is called again after a reset, on memory that is zero again.
//! - [`firmware`]: what firmware gets, where it starts the machine instead.
//!
//! Low memory is laid out in one place, the `layout` module; what RAM there is, and what of it a guest can
//! use, is `map`'s to say.
//!
//! The crate knows guest memory and the processor's state, but no engine and no device: what the tables say
//! of devices comes in through [`AcpiParameters`].
//!
//! Kernel files, initrds and command lines are untrusted. Whatever is in them, the outcome is an error that
//! names the reason or a guest whose memory holds it: no panic, no unbounded use of memory. Where loading
//! fails, guest memory holds parts of what was to be loaded.
#![forbid(unsafe_code)]

pub mod acpi;
mod error;
pub mod firmware;
mod flat;
mod initrd;
pub mod kernel;
mod layout;
mod linux;
mod load;
mod map;
mod multiboot;
mod pvh;
pub mod smbios;
#[cfg(test)]
mod testing;

pub use acpi::AcpiParameters;
pub use error::BootError;
pub use initrd::{Initrd, Module};
pub use kernel::{Kernel, KernelError};
pub use load::{BootParameters, Protocol, load};
pub use smbios::{SmbiosParameters, SystemIdentity};
