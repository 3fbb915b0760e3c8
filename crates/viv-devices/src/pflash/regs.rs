//! The command set and what the chip says about itself (Intel StrataFlash 28FxxxJ3 data sheet, "Command Bus-Cycle
//! Definitions"; JEDEC JESD68.01, the Common Flash Interface).

use bitflags::bitflags;

/// The first byte of a command.
pub(super) mod command {
    pub const PROGRAM_ALTERNATE: u8 = 0x10;
    pub const ERASE_BLOCK: u8 = 0x20;
    pub const PROGRAM: u8 = 0x40;
    pub const CLEAR_STATUS: u8 = 0x50;
    pub const LOCK_SETUP: u8 = 0x60;
    pub const READ_STATUS: u8 = 0x70;
    pub const READ_ID: u8 = 0x90;
    pub const READ_QUERY: u8 = 0x98;
    /// The second byte of [`ERASE_BLOCK`], and what ends [`WRITE_BUFFER`].
    pub const CONFIRM: u8 = 0xd0;
    pub const WRITE_BUFFER: u8 = 0xe8;
    pub const READ_ARRAY: u8 = 0xff;
}

bitflags! {
    /// The status register.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct Status: u8 {
        /// With [`Status::ERASE_FAILED`]: the command was none.
        const PROGRAM_FAILED = 1 << 4;
        const ERASE_FAILED = 1 << 5;
        const READY = 1 << 7;
    }
}

impl Status {
    /// A command that did not go on as it should.
    pub(super) const BAD_SEQUENCE: Self = Self::PROGRAM_FAILED.union(Self::ERASE_FAILED);
}

/// The size of an erase block in bytes, which is the unit of sizes too.
pub(super) const BLOCK: usize = 1 << 12;
/// The size of the write buffer as a power of two: as many writes as its count of one byte can say.
const BUFFER_LOG2: u8 = 8;

/// Intel, which made the command set.
const MANUFACTURER: u8 = 0x89;
/// 28F128J3, one of the chips that have it.
const DEVICE: u8 = 0x18;

/// What is read at `offset` in the mode for identifiers. No block is locked.
pub(super) fn identifier(offset: u64) -> u8 {
    match offset {
        0 => MANUFACTURER,
        1 => DEVICE,
        _ => 0,
    }
}

/// What is read at `offset` in the mode for queries, of a chip of `size` bytes.
pub(super) fn query(offset: u64, size: usize) -> u8 {
    let [blocks_low, blocks_high, ..] = (size / BLOCK).saturating_sub(1).to_le_bytes();
    let [units_low, units_high, ..] = (BLOCK / 256).to_le_bytes();
    let size_log2 = u8::try_from(size.next_power_of_two().trailing_zeros()).unwrap_or(0);
    let fields: [(u64, &[u8]); 10] = [
        (0x10, b"QRY"),
        // The command set, which is Intel's extended one, and where its table is.
        (0x13, &[1, 0, 0x31, 0]),
        // Supply voltage, lowest and highest, in volts and tenths.
        (0x1b, &[0x27, 0x36]),
        // Powers of two: typical microseconds to program and to write the buffer, milliseconds to erase a block.
        (0x1f, &[7, 7, 10]),
        // By which powers of two more at most.
        (0x23, &[4, 4, 4]),
        (0x27, &[size_log2]),
        (0x2a, &[BUFFER_LOG2]),
        // One region of blocks that are alike: their number less one, and their size in units of 256 bytes.
        (0x2c, &[1]),
        (0x2d, &[blocks_low, blocks_high, units_low, units_high]),
        // The command set's table, version 1.0: nothing beyond the basic commands.
        (0x31, b"PRI10"),
    ];
    let byte = |&(start, bytes): &(u64, &[u8])| {
        bytes.get(usize::try_from(offset.checked_sub(start)?).ok()?).copied()
    };
    fields.iter().find_map(byte).unwrap_or(0)
}
