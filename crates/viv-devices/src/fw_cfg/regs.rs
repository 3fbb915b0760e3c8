//! Keys of items and bits of the DMA interface (QEMU, docs/specs/fw_cfg).

use bitflags::bitflags;

/// What the DMA address register reads as, from its first byte on.
pub(super) const DMA_SIGNATURE: [u8; 8] = *b"QEMU CFG";

/// [`key::ID`]: selector and data port are there.
pub(super) const ID_PORTS: u32 = 1 << 0;
/// [`key::ID`]: the DMA interface is there.
pub(super) const ID_DMA: u32 = 1 << 1;

/// The selector's bit that once enabled writes to the data port. It means nothing.
pub(super) const SELECTOR_WRITE: u16 = 1 << 14;

/// The keys of items that have no name. Numbers in them are little endian.
pub mod key {
    /// `QEMU`.
    pub const SIGNATURE: u16 = 0x00;
    /// Which interfaces there are, 4 bytes.
    pub const ID: u16 = 0x01;
    /// The machine's UUID, 16 bytes.
    pub const UUID: u16 = 0x02;
    /// Bytes of RAM, 8 bytes.
    pub const RAM_SIZE: u16 = 0x03;
    /// 1 if there is no display, 2 bytes.
    pub const NOGRAPHIC: u16 = 0x04;
    /// How many processors start, 2 bytes.
    pub const CPUS: u16 = 0x05;
    /// 1 if the firmware is to offer a boot menu, 2 bytes.
    pub const BOOT_MENU: u16 = 0x0e;
    /// How many processors there can be, 2 bytes.
    pub const MAX_CPUS: u16 = 0x0f;
    /// The directory of files.
    pub const FILE_DIRECTORY: u16 = 0x19;
    /// The first file; the others follow.
    pub const FIRST_FILE: u16 = 0x20;
    /// Where the keys of files end.
    pub(crate) const END_OF_FILES: u16 = 0x4000;
    /// The first key that has a meaning for this architecture only.
    pub const ARCHITECTURE: u16 = 0x8000;
    /// Where these keys end.
    pub(crate) const END_OF_ARCHITECTURE: u16 = 0xc000;
}

bitflags! {
    /// The control field of a DMA descriptor; its upper half is the key to select.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct DmaControl: u32 {
        /// Set by the device: the operation failed.
        const ERROR = 1 << 0;
        const READ = 1 << 1;
        const SKIP = 1 << 2;
        const SELECT = 1 << 3;
        const WRITE = 1 << 4;
    }
}
