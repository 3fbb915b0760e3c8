//! The devices of the machine: chipset, PCI, virtio, SATA.
//!
//! A device is a state machine behind [`Device`]: a list of questions with optional answers. It knows guest
//! RAM, interrupt lines, messages and timers by the traits of `viv-engine`, so it is driven in tests with no
//! CPU at all. It must not know engines, threads, or how the machine is put together.
//!
//! - [`device`]: what a device is; [`bus`]: which device answers where; [`irq`]: interrupt lines; [`system`]:
//!   what a guest asks of the machine; [`layout`]: every port, address and interrupt number.
//! - [`vga`]: the display.
//! - The chipset: [`irqchip`] (8259s and IOAPIC), [`pit`] (8254), [`rtc`] (MC146818), [`hpet`], [`uart`]
//!   (16550A), [`i8042`], [`acpi_pm`], [`cpu_hotplug`], [`tco`] (watchdog), [`reset`], [`a20`].
//! - What guests know that they have a host for: [`pvpanic`], [`generation_id`].
//! - What firmware asks for: [`fw_cfg`], [`pflash`]. For its log and for test programs: [`debug_port`],
//!   [`exit_port`].
//! - On PCI ([`pci`]): [`virtio`], [`ahci`]; [`doorbell`]: how their work gets to the thread for devices.
//!
//! The guest is hostile: register writes come in any order, with any value and size, and rings and
//! descriptors in guest RAM may change while they are read. Nothing here may panic, loop without bound or
//! reach outside guest RAM; lints deny what could.
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

pub mod a20;
pub mod acpi_pm;
pub mod ahci;
pub mod bus;
pub mod cpu_hotplug;
pub mod debug_port;
pub mod device;
pub mod doorbell;
pub mod exit_port;
pub mod fw_cfg;
pub mod generation_id;
pub mod hpet;
pub mod i8042;
pub mod irq;
pub mod irqchip;
pub mod layout;
pub mod pci;
pub mod pflash;
pub mod pit;
mod portio;
pub mod pvpanic;
pub mod reset;
pub mod rtc;
pub mod system;
pub mod tco;
#[cfg(test)]
mod testing;
mod ticks;
pub mod uart;
pub mod vga;
pub mod virtio;

pub use bus::{IoBus, SharedDevice};
pub use device::{Device, DeviceError, MemoryIo, PortIo, SavedState, TimerEvents};
