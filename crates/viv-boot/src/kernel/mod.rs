//! Kernel files: what they are, and what in them goes where.
//!
//! A file is an ELF image, a Linux bzImage with a packed ELF image inside, an image with a Multiboot header that says
//! itself where it goes, or any of them packed once more as a whole. Whatever it is, it is unpacked here, on the host: a guest's own decompressor would do the
//! same work at a fraction of the speed.

mod bytes;
mod bzimage;
mod elf;
mod multiboot;
mod unpack;

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read, Seek};

pub use bzimage::SetupHeader;
pub use elf::{ElfClass, ElfError, Segment};
pub use multiboot::MultibootError;
pub use unpack::Packing;

use elf::Elf;
use multiboot::Header as MultibootHeader;

/// The largest kernel file, and the largest image that one may unpack to.
pub const SIZE_LIMIT: u64 = 1 << 30;

/// Why a file cannot be taken as a kernel.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The file cannot be read.
    #[error("cannot read the kernel file")]
    Read(#[source] io::Error),
    /// The file is beyond all measure.
    #[error("the kernel file is larger than {SIZE_LIMIT} bytes")]
    TooLarge,
    /// The file is something else. The text says what.
    #[error("not a kernel: {0}")]
    NotAKernel(String),
    /// The file ends before something that it announces.
    #[error("the kernel file is truncated: its {part} ends at byte {end}, the file at byte {length}")]
    Truncated {
        /// What reaches beyond the end.
        part: &'static str,
        /// Where that would end.
        end: u64,
        /// Where the file ends.
        length: u64,
    },
    /// A bzImage from before Linux 2.6.26, which does not say where its payload is.
    #[error("the kernel speaks boot protocol {major}.{minor:02}: 2.08 or later is needed")]
    OldProtocol {
        /// The version's first part.
        major: u8,
        /// The version's second part.
        minor: u8,
    },
    /// The packing is known by name only.
    #[error("the kernel is packed with {0}, which cannot be unpacked here")]
    UnsupportedPacking(&'static str),
    /// A bzImage whose payload starts like no packing there is.
    #[error("the kernel's payload starts with {0}, which is no known packing")]
    UnknownPacking(String),
    /// The packed data are damaged or end too soon.
    #[error("cannot unpack the kernel's {packing} data: they are damaged or cut off")]
    Damaged {
        /// How they are packed.
        packing: Packing,
        /// What the decompressor found.
        #[source]
        source: io::Error,
    },
    /// The packed data unpack to more than any kernel has.
    #[error("the kernel's {packing} data unpack to more than {limit} bytes")]
    UnpacksTooLarge {
        /// How they are packed.
        packing: Packing,
        /// What they may unpack to.
        limit: u64,
    },
    /// The size that a bzImage gives for its unpacked payload is not what came out.
    #[error("the kernel's {packing} data are damaged: they unpack to {actual} bytes instead of {expected}")]
    SizeMismatch {
        /// How they are packed.
        packing: Packing,
        /// The size that the payload ends with.
        expected: u32,
        /// The size found, modulo 2^32.
        actual: u32,
    },
    /// The ELF image is not well formed.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// The image has a Multiboot header that cannot be obeyed.
    #[error(transparent)]
    Multiboot(#[from] MultibootError),
}

/// An unpacked kernel, ready to be loaded.
///
/// It is as large as the kernel is unpacked (some 50 MB for a distribution's), and of no use once loaded: to
/// load again after a reset, keep the [`File`] and make another.
#[derive(Debug)]
pub struct Kernel {
    image: Vec<u8>,
    elf: Elf,
    setup_header: Option<SetupHeader>,
    is_multiboot: bool,
}

impl Kernel {
    /// Reads and unpacks the kernel in a file, from its beginning wherever the file's offset stands.
    ///
    /// # Errors
    /// When the file cannot be read, or holds no kernel that can be loaded.
    pub fn from_file(mut file: &File) -> Result<Self, KernelError> {
        let mut content = Vec::new();
        file.rewind().map_err(KernelError::Read)?;
        file.take(SIZE_LIMIT + 1).read_to_end(&mut content).map_err(KernelError::Read)?;
        Self::from_bytes(content)
    }

    /// Unpacks the kernel in a file's content.
    ///
    /// # Errors
    /// When this is no kernel that can be loaded.
    pub fn from_bytes(content: Vec<u8>) -> Result<Self, KernelError> {
        if content.len() as u64 > SIZE_LIMIT {
            return Err(KernelError::TooLarge);
        }
        if content.is_empty() {
            return Err(KernelError::NotAKernel("the file is empty".into()));
        }
        match Packing::detect(&content) {
            Some(packing) => Self::from_plain(packing.unpack(&content, SIZE_LIMIT)?),
            None => Self::from_plain(content),
        }
    }

    fn from_plain(content: Vec<u8>) -> Result<Self, KernelError> {
        if elf::is_elf(&content) {
            return Self::from_elf(content);
        }
        if bzimage::is_bzimage(&content) {
            let header = SetupHeader::parse(&content)?;
            let image = bzimage::unpack_payload(&content, &header)?;
            let elf = Elf::parse(&image)?;
            return Ok(Self { elf, image, setup_header: Some(header), is_multiboot: false });
        }
        if let Some(header) = MultibootHeader::find(&content).filter(|header| header.has_addresses()) {
            header.check()?;
            let elf = header.layout(&content)?;
            return Ok(Self { elf, image: content, setup_header: None, is_multiboot: true });
        }
        Err(KernelError::NotAKernel(format!(
            "it starts with {}, like neither a Linux bzImage, an ELF image nor one of them packed",
            bytes::preview(&content)
        )))
    }

    /// Takes an ELF image. What a Multiboot header says goes before what the ELF headers say (Multiboot, 3.1.2), unless
    /// there is a better way to start it.
    fn from_elf(image: Vec<u8>) -> Result<Self, KernelError> {
        let mut elf = Elf::parse(&image)?;
        let header = MultibootHeader::find(&image);
        if let Some(header) = header.filter(|_| elf.pvh_entry.is_none()) {
            header.check()?;
            if header.has_addresses() {
                elf = header.layout(&image)?;
            }
        }
        Ok(Self {
            elf,
            image,
            setup_header: None,
            is_multiboot: header.is_some_and(|header| header.check().is_ok()),
        })
    }

    /// The setup header, if it came as a bzImage.
    #[must_use]
    pub fn setup_header(&self) -> Option<&SetupHeader> {
        self.setup_header.as_ref()
    }

    /// Whether the image is a 32-bit or a 64-bit one.
    #[must_use]
    pub fn class(&self) -> ElfClass {
        self.elf.class
    }

    /// The image's entry point. A 64-bit Linux gives the physical address of its `startup_64`.
    #[must_use]
    pub fn entry(&self) -> u64 {
        self.elf.entry
    }

    /// The entry point for PVH, if the image has the note that gives it.
    #[must_use]
    pub fn pvh_entry(&self) -> Option<u64> {
        self.elf.pvh_entry
    }

    /// The entry point for Multiboot, a physical address, if the image has a header that says it is one.
    #[must_use]
    pub fn multiboot_entry(&self) -> Option<u64> {
        self.is_multiboot.then_some(self.elf.physical_entry)
    }

    /// Whether the image is linked into the upper half of the 64-bit address space, as Linux is and a
    /// program is not.
    #[must_use]
    pub fn is_high_half(&self) -> bool {
        self.elf.high_half
    }

    /// What is to be loaded, in ascending order of address, without overlap.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.elf.segments
    }

    /// The bytes of a segment that come from the file; what follows up to its size in memory is zero.
    pub(crate) fn content(&self, segment: &Segment) -> &[u8] {
        // The parser has checked the range against this very image.
        self.image.get(segment.file.clone()).unwrap_or_default()
    }
}
