//! `struct boot_params`, the "zero page" (Linux, Documentation/arch/x86/zero-page.rst).

use crate::error::BootError;
use crate::kernel::SetupHeader;
use crate::layout;
use crate::load::Loaded;

const ACPI_RSDP_ADDR: usize = 0x070;
const EXT_RAMDISK_IMAGE: usize = 0x0c0;
const EXT_RAMDISK_SIZE: usize = 0x0c4;
const EXT_CMD_LINE_PTR: usize = 0x0c8;
const E820_ENTRIES: usize = 0x1e8;
const BOOT_FLAG: usize = 0x1fe;
const HEADER: usize = 0x202;
const VERSION: usize = 0x206;
const TYPE_OF_LOADER: usize = 0x210;
const LOADFLAGS: usize = 0x211;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21c;
const CMD_LINE_PTR: usize = 0x228;
const E820_TABLE: usize = 0x2d0;

const E820_ENTRY_SIZE: usize = 20;
const E820_MAX_ENTRIES: usize = 128;

const PAGE: usize = 0x1000;
/// The protocol that a kernel without a header is taken to speak, as far as `boot_params` goes.
const PROTOCOL_2_15: u16 = 0x020f;
/// `type_of_loader`: none of those with a number of their own.
const UNDEFINED_LOADER: u8 = 0xff;
/// `loadflags`: the kernel is at 1 MiB or above.
const LOADED_HIGH: u8 = 1 << 0;
/// `loadflags`: the 16-bit part may use a heap.
const CAN_USE_HEAP: u8 = 1 << 7;

/// The page under construction.
struct ZeroPage([u8; PAGE]);

impl ZeroPage {
    fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Puts a 64-bit value into two fields, its lower and its upper half.
    fn put_split(&mut self, low: usize, high: usize, value: u64) {
        self.put(low, &(value as u32).to_le_bytes());
        self.put(high, &((value >> 32) as u32).to_le_bytes());
    }
}

/// The page for a kernel with this header, or with none.
pub fn build(header: Option<&SetupHeader>, loaded: &Loaded) -> Result<[u8; PAGE], BootError> {
    let mut page = ZeroPage([0; PAGE]);
    match header {
        Some(header) => page.put(SetupHeader::OFFSET, &header.bytes),
        None => {
            page.put(BOOT_FLAG, &0xaa55_u16.to_le_bytes());
            page.put(HEADER, b"HdrS");
            page.put(VERSION, &PROTOCOL_2_15.to_le_bytes());
        }
    }
    page.put(TYPE_OF_LOADER, &[UNDEFINED_LOADER]);
    let loadflags = (page.0[LOADFLAGS] | LOADED_HIGH) & !CAN_USE_HEAP;
    page.put(LOADFLAGS, &[loadflags]);

    let initrd = loaded.initrd.clone().unwrap_or_default();
    page.put_split(RAMDISK_IMAGE, EXT_RAMDISK_IMAGE, initrd.start);
    page.put_split(RAMDISK_SIZE, EXT_RAMDISK_SIZE, initrd.end - initrd.start);
    page.put_split(CMD_LINE_PTR, EXT_CMD_LINE_PTR, layout::CMDLINE.start);
    page.put(ACPI_RSDP_ADDR, &loaded.rsdp.to_le_bytes());

    let count = u8::try_from(loaded.map.len()).ok().filter(|count| usize::from(*count) <= E820_MAX_ENTRIES);
    page.put(E820_ENTRIES, &[count.ok_or(BootError::TooManyRanges(loaded.map.len()))?]);
    for (index, range) in loaded.map.iter().enumerate() {
        let offset = E820_TABLE + index * E820_ENTRY_SIZE;
        page.put(offset, &range.start.to_le_bytes());
        page.put(offset + 8, &range.size.to_le_bytes());
        page.put(offset + 16, &(range.kind as u32).to_le_bytes());
    }
    Ok(page.0)
}
