//! The registers of CPU hotplug, as QEMU documents them (docs/specs/acpi_cpu_hotplug), without the bitmap of older
//! machines.

use bitflags::bitflags;

bitflags! {
    /// The status of the selected CPU when read; when written, what is to be done.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct Flags: u8 {
        /// It is there (read only).
        const ENABLED = 1 << 0;
        /// It has been plugged in; a written one says that the guest has noticed.
        const INSERTING = 1 << 1;
        /// It is to be unplugged; a written one says that the guest has noticed.
        const REMOVING = 1 << 2;
        /// Unplugs it (write only).
        const EJECT = 1 << 3;
    }
}

/// What the command register is told. The others, by which guests say how it went, are taken and mean nothing.
pub(super) mod command {
    /// Selects the next CPU that something has happened to, and gives its selector.
    pub const NEXT_EVENT: u8 = 0;
    /// Gives the selected CPU's local APIC id.
    pub const ARCH_ID: u8 = 3;
}

/// A register by what is done to it: some answer at the same place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Register {
    /// The selector when written, the upper half of a command's answer when read.
    Selector,
    /// [`Flags`].
    Flags,
    /// The command (write only).
    Command,
    /// The lower half of a command's answer.
    Data,
}

impl Register {
    /// The register of `length` bytes at `offset`.
    pub(super) fn at(offset: u16, length: usize) -> Option<Self> {
        Some(match (offset, length) {
            (0, 4) => Self::Selector,
            (4, 1) => Self::Flags,
            (5, 1) => Self::Command,
            (8, 4) => Self::Data,
            _ => return None,
        })
    }
}
