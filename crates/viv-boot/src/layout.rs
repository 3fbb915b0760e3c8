//! What lies where in the first megabyte, besides nothing.
//!
//! Each structure has its place, so that no two meet whatever their sizes; kernel and initrd stay above.
//! Page 0 is left alone: kernels save it or look for BIOS data there.

use std::ops::Range;

/// Where the GDT of the 64-bit protocol lies.
pub const GDT: u64 = 0x1000;
/// Where `hvm_start_info` and the tables it leads to lie, a page in all.
pub const START_INFO: Range<u64> = 0x6000..0x7000;
/// Where `boot_params` lies, a page.
pub const BOOT_PARAMS: u64 = 0x7000;
/// The identity-mapping page tables: PML4, PDPT, and four page directories.
pub const PAGE_TABLES: Range<u64> = 0x9000..0xf000;
/// Room for the command line and its terminating zero.
pub const CMDLINE: Range<u64> = 0x2_0000..0x3_0000;
/// The Multiboot information, and all that it leads to but for the modules themselves.
pub const MULTIBOOT_INFO: Range<u64> = 0x3_0000..0x5_0000;
/// Where RAM that the guest can use ends on a PC, for video memory and BIOS.
pub const LOW_RAM_END: u64 = 0xa_0000;
/// The ACPI tables. The first of them is the RSDP, in the BIOS area and on a multiple of 16, so that kernels
/// that are told no address find it (ACPI 6.5, 5.2.5.1).
pub const ACPI_TABLES: Range<u64> = 0xe_0000..0xf_0000;
/// The SMBIOS tables, anchors first, where systems look for them.
pub const SMBIOS_TABLES: Range<u64> = crate::smbios::ANCHOR_AREA;
/// Where kernel and initrd can begin.
pub const HIGH_MEMORY: u64 = 0x10_0000;
