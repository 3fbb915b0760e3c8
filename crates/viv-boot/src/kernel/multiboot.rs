//! The Multiboot header (Multiboot 0.6.96, 3.1): by it an image says that a Multiboot loader can start it, and how.

use super::bytes::u32_at;
use super::elf::{Elf, ElfClass, Segment};

const MAGIC: u32 = 0x1bad_b002;
/// The header lies whole in this many bytes of the file, at a multiple of four.
const SEARCHED: usize = 8192;

/// The header's fields, by offset.
const FLAGS: usize = 4;
const CHECKSUM: usize = 8;
const HEADER_ADDR: usize = 12;
const LOAD_ADDR: usize = 16;
const LOAD_END_ADDR: usize = 20;
const BSS_END_ADDR: usize = 24;
const ENTRY_ADDR: usize = 28;
/// Where it ends, without and with addresses.
const SHORT: usize = 12;
const LONG: usize = 32;

/// Flags: requirements, which a loader that does not know them must not ignore.
const REQUIREMENTS: u32 = 0xffff;
/// The requirements that are met: modules on pages, information about memory, and, by giving none, about video modes.
const KNOWN: u32 = 0b111;
/// Flags: the header has addresses.
const HAS_ADDRESSES: u32 = 1 << 16;

/// Why an image with a header cannot be loaded.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MultibootError {
    /// The header makes demands that are not known.
    #[error("the kernel's Multiboot header has requirements that are not known: flags {0:#x}")]
    Requirements(u32),
    /// The header's addresses contradict each other or the file.
    #[error(
        "the kernel's Multiboot header has impossible addresses: header at {header:#x}, loaded from {load:#x} to \
         {load_end:#x}, memory to {bss_end:#x}"
    )]
    Addresses {
        /// Where the header goes.
        header: u32,
        /// Where the first loaded byte goes.
        load: u32,
        /// Where the loaded bytes end; 0 for the file's end.
        load_end: u32,
        /// Where the memory that belongs to them ends; 0 for where they end.
        bss_end: u32,
    },
}

/// A header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Where in the file it is.
    at: usize,
    flags: u32,
}

impl Header {
    /// Finds the header of `image`, if it has one.
    pub fn find(image: &[u8]) -> Option<Self> {
        let searched = &image[..image.len().min(SEARCHED)];
        (0..searched.len()).step_by(4).find_map(|at| {
            let header = searched.get(at..)?;
            let flags = u32_at(header, FLAGS)?;
            let sum = MAGIC.wrapping_add(flags).wrapping_add(u32_at(header, CHECKSUM)?);
            let length = if flags & HAS_ADDRESSES == 0 { SHORT } else { LONG };
            let found = u32_at(header, 0)? == MAGIC && sum == 0 && header.len() >= length;
            found.then_some(Self { at, flags })
        })
    }

    /// Whether it says by itself what is loaded where.
    pub fn has_addresses(self) -> bool {
        self.flags & HAS_ADDRESSES != 0
    }

    /// Checks that the loader does all that it requires.
    pub fn check(self) -> Result<(), MultibootError> {
        if self.flags & REQUIREMENTS & !KNOWN == 0 {
            Ok(())
        } else {
            Err(MultibootError::Requirements(self.flags))
        }
    }

    /// What is loaded of `image`, in which it was found, by its addresses.
    pub fn layout(self, image: &[u8]) -> Result<Elf, MultibootError> {
        let field = |offset: usize| u32_at(image, self.at + offset).unwrap_or(0);
        let (header, load) = (field(HEADER_ADDR), field(LOAD_ADDR));
        let (load_end, bss_end) = (field(LOAD_END_ADDR), field(BSS_END_ADDR));
        let impossible = MultibootError::Addresses { header, load, load_end, bss_end };
        let segment = || {
            let before = usize::try_from(header.checked_sub(load)?).ok()?;
            let start = self.at.checked_sub(before)?;
            let end = match load_end {
                0 => image.len(),
                _ => start.checked_add(usize::try_from(load_end.checked_sub(load)?).ok()?)?,
            };
            let length = end.checked_sub(start).filter(|length| *length > 0 && end <= image.len())? as u64;
            let size = match bss_end {
                0 => length,
                _ => u64::from(bss_end.checked_sub(load)?),
            };
            (size >= length).then_some(Segment { address: load.into(), size, file: start..end })
        };
        let entry = u64::from(field(ENTRY_ADDR));
        Ok(Elf {
            class: ElfClass::Elf32,
            entry,
            physical_entry: entry,
            pvh_entry: None,
            segments: vec![segment().ok_or(impossible)?],
            high_half: false,
        })
    }
}
