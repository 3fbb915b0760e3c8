//! PCI: functions, their configuration space, the bus that routes to them.
//!
//! There is one bus with function 0 of up to 32 devices and no bridges to others. Where no firmware stands between the
//! machine and the guest ([`Placing`]), [`PciBus::add`] gives every BAR its address, as firmware would, and Linux keeps
//! what it finds. A guest may move a BAR or switch decoding off, at any time. The bus follows without a word to the
//! machine, because the machine gives it whole windows once and for all and the bus routes within them by the BARs'
//! present values.
//!
//! - [`ConfigSpace`]: the 256 bytes of a function: which are writable, BARs (which answer sizing writes
//!   because only their address bits are), the list of capabilities.
//! - [`PciDevice`]: a function. [`ExpansionRom`]: the content of its ROM, if it has one.
//! - [`PciBus`]: the bus. [`PciBus::host`] is its [`Device`](crate::Device) for configuration mechanism #1 (ports 0xcf8
//!   and 0xcfc), for ECAM, for the window below 4 GiB and for ports; [`PciBus::high_window`] the one for the window
//!   above 4 GiB.
//! - [`MsiCapability`]: the MSI capability, with one message.
//! - [`MsiX`]: the MSI-X capability, its table and its pending bits.
//! - [`IntxLine`]: a function's INTA#; [`Pirqs`]: the wires from these to the interrupt controllers.
//! - [`Lpc`]: the bridge to the ISA devices.
//!
//! Nothing answers at unclaimed places: reads give ones, writes are dropped (PCI 3.0, 6.1).
//!
//! **Locks.** The bus has a lock; a function is called under it. A function may take locks of its own under the
//! bus's, and must not call the bus. The targets of interrupts are called under both and must not call back.
//!
//! Specifications: PCI Local Bus 3.0 (configuration space, MSI-X), PCI Express 5.0, 7.2.2 (ECAM).

mod bridge;
mod bus;
mod config;
mod device;
mod host;
mod lpc;
mod msi;
mod msix;
mod pirq;
pub mod regs;
mod rom;
#[cfg(test)]
mod tests;
mod window;

pub use bus::{PciBus, PciError, Placing, Windows};
pub use config::{Bar, BarKind, ConfigSpace, ConfigState, Identity};
pub use device::{Connections, IntxLine, PciDevice};
pub use host::{HighWindow, PciHost};
pub use lpc::Lpc;
pub use msi::MsiCapability;
pub use msix::{MsiX, MsiXState};
pub use pirq::{PIRQS, Pirqs};
pub use rom::ExpansionRom;
