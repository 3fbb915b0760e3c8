//! The registers of a type 0 configuration space, by name (PCI 3.0, 6.1).

/// Vendor id, 16 bits.
pub const VENDOR_ID: u8 = 0x00;
/// Device id, 16 bits.
pub const DEVICE_ID: u8 = 0x02;
/// Command, 16 bits: [`command`].
pub const COMMAND: u8 = 0x04;
/// Status, 16 bits: [`status`].
pub const STATUS: u8 = 0x06;
/// Revision, 8 bits, and class code, 24 bits.
pub const REVISION: u8 = 0x08;
/// Cache line size, 8 bits: a note of the guest's to itself.
pub const CACHE_LINE_SIZE: u8 = 0x0c;
/// The first of six BARs, 32 bits each.
pub const BAR0: u8 = 0x10;
/// Subsystem vendor id, 16 bits.
pub const SUBSYSTEM_VENDOR_ID: u8 = 0x2c;
/// Subsystem id, 16 bits.
pub const SUBSYSTEM_ID: u8 = 0x2e;
/// Expansion ROM, 32 bits: bits 11 to 31 are its address, bit 0 is [`ROM_ENABLE`].
pub const ROM: u8 = 0x30;
/// Offset of the first capability, 8 bits.
pub const CAPABILITIES_POINTER: u8 = 0x34;
/// Interrupt line, 8 bits: a note of firmware's to the guest.
pub const INTERRUPT_LINE: u8 = 0x3c;
/// Interrupt pin, 8 bits: 0 none, 1 INTA#.
pub const INTERRUPT_PIN: u8 = 0x3d;
/// Where capabilities can begin.
pub const HEADER_END: u8 = 0x40;

/// Bit of [`ROM`]: it answers, if the function's memory does.
pub const ROM_ENABLE: u32 = 1 << 0;

/// Bits of [`COMMAND`].
pub mod command {
    /// I/O BARs answer.
    pub const IO_SPACE: u16 = 1 << 0;
    /// Memory BARs answer.
    pub const MEMORY_SPACE: u16 = 1 << 1;
    /// The function may access memory and send messages.
    pub const BUS_MASTER: u16 = 1 << 2;
    /// The function keeps its INTx# line silent.
    pub const INTERRUPT_DISABLE: u16 = 1 << 10;
    /// The bits that can be written; parity and SERR# have no effect.
    pub const WRITABLE: u16 = IO_SPACE | MEMORY_SPACE | BUS_MASTER | (1 << 6) | (1 << 8) | INTERRUPT_DISABLE;
}

/// Bits of [`STATUS`].
pub mod status {
    /// The function wants service by its INTx# line.
    pub const INTERRUPT: u16 = 1 << 3;
    /// There is a list of capabilities.
    pub const CAPABILITIES: u16 = 1 << 4;
}

/// Capability ids.
pub mod capability {
    /// MSI.
    pub const MSI: u8 = 0x05;
    /// Vendor-specific.
    pub const VENDOR: u8 = 0x09;
    /// MSI-X.
    pub const MSIX: u8 = 0x11;
}
