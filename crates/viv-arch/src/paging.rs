//! Page-table entries (SDM vol. 3, 4.5).

/// Present.
pub const PRESENT: u64 = 1 << 0;
/// Writable.
pub const WRITABLE: u64 = 1 << 1;
/// User.
pub const USER: u64 = 1 << 2;
/// Write-through.
pub const WRITE_THROUGH: u64 = 1 << 3;
/// Cache disable.
pub const CACHE_DISABLE: u64 = 1 << 4;
/// Accessed.
pub const ACCESSED: u64 = 1 << 5;
/// Dirty.
pub const DIRTY: u64 = 1 << 6;
/// Page size: the entry maps a large page.
pub const LARGE: u64 = 1 << 7;
/// Global.
pub const GLOBAL: u64 = 1 << 8;
/// No execute.
pub const NO_EXECUTE: u64 = 1 << 63;
/// The physical address field at the widest, bits 12 to 51.
pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Size of the smallest page.
pub const PAGE_SIZE: u64 = 4096;
/// The bits of an address within a page.
pub const PAGE_OFFSET: u64 = PAGE_SIZE - 1;

/// Page-fault error code (SDM vol. 3, 4.7): the page was present.
pub const FAULT_PRESENT: u32 = 1 << 0;
/// Page-fault error code: a write.
pub const FAULT_WRITE: u32 = 1 << 1;
/// Page-fault error code: in user mode.
pub const FAULT_USER: u32 = 1 << 2;
/// Page-fault error code: a reserved bit was set.
pub const FAULT_RESERVED: u32 = 1 << 3;
/// Page-fault error code: an instruction fetch.
pub const FAULT_FETCH: u32 = 1 << 4;

/// Whether `address` is canonical with 48-bit linear addresses.
#[must_use]
pub const fn is_canonical(address: u64) -> bool {
    ((address as i64) << 16 >> 16) as u64 == address
}
