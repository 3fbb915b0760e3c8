//! ELF images (System V ABI, "Object Files"), as far as loading a kernel needs: what goes where, the entry
//! point, and the PVH note.

use std::ops::Range;

use super::bytes::{array, u16_at, u32_at, u64_at};

const MAGIC: &[u8] = b"\x7fELF";
/// EI_CLASS; EI_DATA follows it.
const EI_CLASS: usize = 4;
const ELFDATA2LSB: u8 = 1;
const E_TYPE: usize = 16;
const E_MACHINE: usize = 18;
const ET_EXEC: u16 = 2;
const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;

/// XEN_ELFNOTE_PHYS32_ENTRY: the 32-bit entry point of the PVH protocol.
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
const XEN_NOTE_NAME: &[u8] = b"Xen\0";

/// Where the upper half of the 64-bit address space begins.
const HIGH_HALF: u64 = 0xffff_8000_0000_0000;

/// Why an ELF image cannot be loaded.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ElfError {
    /// The image is for another processor.
    #[error("not a kernel: an ELF image for another processor (machine {0})")]
    Machine(u16),
    /// The image is not an executable one.
    #[error("not a kernel: an ELF file of type {0}, where an executable has type 2")]
    Kind(u16),
    /// Neither 32-bit nor 64-bit little endian.
    #[error("not a kernel: an ELF file of class {class} and byte order {order}")]
    Class {
        /// EI_CLASS.
        class: u8,
        /// EI_DATA.
        order: u8,
    },
    /// Headers or data beyond the image's end.
    #[error("the kernel's ELF image is truncated: its {part} lies beyond its end at byte {length}")]
    Truncated {
        /// What lies beyond.
        part: &'static str,
        /// The image's length.
        length: usize,
    },
    /// A segment that has more bytes in the file than in memory, or passes the end of the address space.
    #[error("the kernel's ELF image is damaged: its segment for {address:#x} has an impossible size")]
    SegmentSize {
        /// The segment's physical address.
        address: u64,
    },
    /// Two segments want the same memory.
    #[error("the kernel's ELF image is damaged: its segments overlap at {address:#x}")]
    Overlap {
        /// Where the second one begins.
        address: u64,
    },
    /// There is nothing to load.
    #[error("not a kernel: an ELF image with nothing to load")]
    Empty,
}

/// The two kinds of ELF images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElfClass {
    /// ELFCLASS32.
    Elf32,
    /// ELFCLASS64.
    Elf64,
}

/// A piece of memory that an image fills.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The guest-physical address.
    pub address: u64,
    /// Its size in memory, never zero; the address space does not end within it.
    pub size: u64,
    /// The bytes of the image that it begins with; the rest is zero.
    pub(crate) file: Range<usize>,
}

impl Segment {
    /// The address after its last.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.address + self.size
    }

    /// Whether `address` lies in it.
    #[must_use]
    pub const fn contains(&self, address: u64) -> bool {
        self.address <= address && address < self.end()
    }
}

/// What is needed of an image.
#[derive(Debug, PartialEq, Eq)]
pub struct Elf {
    pub class: ElfClass,
    pub entry: u64,
    /// The entry point's physical address, where it was given by the virtual one.
    pub physical_entry: u64,
    pub pvh_entry: Option<u64>,
    pub segments: Vec<Segment>,
    pub high_half: bool,
}

/// One program header, of either class.
struct ProgramHeader {
    kind: u32,
    offset: u64,
    virtual_address: u64,
    physical_address: u64,
    file_size: u64,
    memory_size: u64,
    align: u64,
}

/// Whether `image` begins like an ELF image.
pub fn is_elf(image: &[u8]) -> bool {
    image.starts_with(MAGIC)
}

impl Elf {
    /// Reads the headers of `image` and checks that all they speak of is in it.
    pub fn parse(image: &[u8]) -> Result<Self, ElfError> {
        let truncated = |part| ElfError::Truncated { part, length: image.len() };
        let [class, order] = array(image, EI_CLASS).ok_or(truncated("header"))?;
        let class = match (class, order) {
            (1, ELFDATA2LSB) => ElfClass::Elf32,
            (2, ELFDATA2LSB) => ElfClass::Elf64,
            _ => return Err(ElfError::Class { class, order }),
        };
        let machine = u16_at(image, E_MACHINE).ok_or(truncated("header"))?;
        match (class, machine) {
            (ElfClass::Elf64, EM_X86_64) | (ElfClass::Elf32, EM_386 | EM_X86_64) => {}
            _ => return Err(ElfError::Machine(machine)),
        }
        let kind = u16_at(image, E_TYPE).ok_or(truncated("header"))?;
        if kind != ET_EXEC {
            return Err(ElfError::Kind(kind));
        }

        let (entry, headers) = program_headers(image, class).ok_or(truncated("program header table"))?;
        let mut elf = Self {
            class,
            entry,
            physical_entry: entry,
            pvh_entry: None,
            segments: Vec::new(),
            high_half: false,
        };
        for header in &headers {
            match header.kind {
                PT_LOAD if header.memory_size != 0 => {
                    elf.high_half |= header.virtual_address >= HIGH_HALF;
                    if let Some(within) = entry.checked_sub(header.virtual_address)
                        && within < header.memory_size
                    {
                        elf.physical_entry = header.physical_address.wrapping_add(within);
                    }
                    elf.segments.push(header.segment(image.len())?);
                }
                PT_NOTE => {
                    let range = header.file_range(image.len()).ok_or(truncated("notes"))?;
                    let notes = image.get(range).ok_or(truncated("notes"))?;
                    elf.pvh_entry = elf.pvh_entry.or(find_pvh_entry(notes, header.align));
                }
                _ => {}
            }
        }
        elf.segments.sort_by_key(|segment| segment.address);
        if elf.segments.is_empty() {
            return Err(ElfError::Empty);
        }
        for pair in elf.segments.windows(2) {
            if pair[1].address < pair[0].end() {
                return Err(ElfError::Overlap { address: pair[1].address });
            }
        }
        Ok(elf)
    }
}

/// The entry point and the program headers; nothing if they are not all in the image.
fn program_headers(image: &[u8], class: ElfClass) -> Option<(u64, Vec<ProgramHeader>)> {
    let (entry, table, size, count) = match class {
        ElfClass::Elf32 => {
            (u32_at(image, 24)?.into(), u32_at(image, 28)?.into(), u16_at(image, 42)?, u16_at(image, 44)?)
        }
        ElfClass::Elf64 => (u64_at(image, 24)?, u64_at(image, 32)?, u16_at(image, 54)?, u16_at(image, 56)?),
    };
    let table = usize::try_from(table).ok()?;
    let headers = (0..usize::from(count)).map(|index| {
        let start = table.checked_add(index * usize::from(size))?;
        let end = start.checked_add(usize::from(size))?;
        ProgramHeader::parse(image.get(start..end)?, class)
    });
    Some((entry, headers.collect::<Option<_>>()?))
}

impl ProgramHeader {
    fn parse(bytes: &[u8], class: ElfClass) -> Option<Self> {
        Some(match class {
            ElfClass::Elf32 => Self {
                kind: u32_at(bytes, 0)?,
                offset: u32_at(bytes, 4)?.into(),
                virtual_address: u32_at(bytes, 8)?.into(),
                physical_address: u32_at(bytes, 12)?.into(),
                file_size: u32_at(bytes, 16)?.into(),
                memory_size: u32_at(bytes, 20)?.into(),
                align: u32_at(bytes, 28)?.into(),
            },
            ElfClass::Elf64 => Self {
                kind: u32_at(bytes, 0)?,
                offset: u64_at(bytes, 8)?,
                virtual_address: u64_at(bytes, 16)?,
                physical_address: u64_at(bytes, 24)?,
                file_size: u64_at(bytes, 32)?,
                memory_size: u64_at(bytes, 40)?,
                align: u64_at(bytes, 48)?,
            },
        })
    }

    /// Where its bytes are in an image of `length` bytes.
    fn file_range(&self, length: usize) -> Option<Range<usize>> {
        let start = usize::try_from(self.offset).ok()?;
        let end = start.checked_add(usize::try_from(self.file_size).ok()?)?;
        (end <= length).then_some(start..end)
    }

    fn segment(&self, length: usize) -> Result<Segment, ElfError> {
        let address = self.physical_address;
        if self.file_size > self.memory_size || address.checked_add(self.memory_size).is_none() {
            return Err(ElfError::SegmentSize { address });
        }
        let file = self.file_range(length).ok_or(ElfError::Truncated { part: "segment", length })?;
        Ok(Segment { address, size: self.memory_size, file })
    }
}

/// The entry point that a Xen note gives for PVH. Notes after a malformed one are not looked at: their
/// places are not known.
fn find_pvh_entry(mut notes: &[u8], align: u64) -> Option<u64> {
    let align = if align == 8 { 8 } else { 4 };
    loop {
        let name_size = usize::try_from(u32_at(notes, 0)?).ok()?;
        let size = usize::try_from(u32_at(notes, 4)?).ok()?;
        let kind = u32_at(notes, 8)?;
        let name_end = name_size.checked_add(12)?;
        let start = name_end.checked_next_multiple_of(align)?;
        let end = start.checked_add(size)?;
        let (name, content) = (notes.get(12..name_end)?, notes.get(start..end)?);
        if kind == XEN_ELFNOTE_PHYS32_ENTRY && name == XEN_NOTE_NAME {
            return match size {
                4 => u32_at(content, 0).map(u64::from),
                _ => u64_at(content, 0),
            };
        }
        notes = notes.get(end.checked_next_multiple_of(align)?..)?;
    }
}
