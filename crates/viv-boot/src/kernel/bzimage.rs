//! The Linux bzImage: the setup header, and the packed kernel behind it (Linux,
//! Documentation/arch/x86/boot.rst).

use super::bytes::{array, preview, u16_at, u32_at};
use super::{KernelError, Packing, SIZE_LIMIT, elf};

const SETUP_SECTS: usize = 0x1f1;
const BOOT_FLAG: usize = 0x1fe;
const JUMP_LENGTH: usize = 0x201;
const HEADER: usize = 0x202;
const VERSION: usize = 0x206;
const INITRD_ADDR_MAX: usize = 0x22c;
const CMDLINE_SIZE: usize = 0x238;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
/// Where the header ends in protocol 2.08: up to here every field that is read here exists.
const END_OF_2_08: usize = 0x250;

/// Where the header must end: in `boot_params`, the next field begins.
const END_LIMIT: usize = 0x290;
/// The number of setup sectors that a zero stands for.
const DEFAULT_SETUP_SECTS: usize = 4;
const SECTOR: usize = 512;

/// The header of a bzImage, by which kernel and boot loader tell each other about themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetupHeader {
    /// Its bytes, of which the first is at [`SetupHeader::OFFSET`].
    pub(crate) bytes: Vec<u8>,
    /// The highest address that an initrd may occupy.
    pub initrd_addr_max: u32,
    /// The longest command line, without its terminating zero.
    pub cmdline_size: u32,
    payload_start: u64,
    payload_length: u32,
}

impl SetupHeader {
    /// Where it lies, in the file as in `boot_params`.
    pub const OFFSET: usize = SETUP_SECTS;

    pub(super) fn parse(file: &[u8]) -> Result<Self, KernelError> {
        let truncated = || KernelError::Truncated {
            part: "setup header",
            end: END_OF_2_08 as u64,
            length: file.len() as u64,
        };
        let version = u16_at(file, VERSION).ok_or_else(truncated)?;
        let [minor, major] = version.to_le_bytes();
        if version < 0x0208 {
            return Err(KernelError::OldProtocol { major, minor });
        }
        // The header ends where the jump at 0x200 leads. A loader copies no more than that, for what follows
        // means something else in `boot_params`.
        let [jump] = array(file, JUMP_LENGTH).ok_or_else(truncated)?;
        let end = (HEADER + usize::from(jump)).clamp(END_OF_2_08, END_LIMIT);
        let setup_sects = match array(file, SETUP_SECTS).ok_or_else(truncated)? {
            [0] => DEFAULT_SETUP_SECTS,
            [sectors] => usize::from(sectors),
        };
        let payload_offset = u32_at(file, PAYLOAD_OFFSET).ok_or_else(truncated)?;
        Ok(Self {
            bytes: file.get(Self::OFFSET..end).ok_or_else(truncated)?.to_vec(),
            initrd_addr_max: u32_at(file, INITRD_ADDR_MAX).ok_or_else(truncated)?,
            cmdline_size: u32_at(file, CMDLINE_SIZE).ok_or_else(truncated)?,
            payload_start: ((setup_sects + 1) * SECTOR) as u64 + u64::from(payload_offset),
            payload_length: u32_at(file, PAYLOAD_LENGTH).ok_or_else(truncated)?,
        })
    }
}

/// Whether these are the first bytes of a Linux kernel for booting, bzImage or older.
pub(super) fn is_bzimage(file: &[u8]) -> bool {
    u16_at(file, BOOT_FLAG) == Some(0xaa55) && array(file, HEADER) == Some(*b"HdrS")
}

/// The ELF image inside.
///
/// Whatever the packing, the payload's last four bytes are the unpacked size: gzip ends so, and for the
/// others the kernel's build appends it (the `size_append` of scripts/Makefile.lib).
pub(super) fn unpack_payload(file: &[u8], header: &SetupHeader) -> Result<Vec<u8>, KernelError> {
    if header.payload_length == 0 {
        // Not only Linux has such a header: memtest86+ borrows it, for boot loaders to take it for one.
        return Err(KernelError::NotAKernel(
            "it has the header of a Linux bzImage, but no Linux in it".into(),
        ));
    }
    let end = header.payload_start + u64::from(header.payload_length);
    let range = usize::try_from(header.payload_start).ok().zip(usize::try_from(end).ok());
    let payload = range.and_then(|(start, end)| file.get(start..end)).ok_or(KernelError::Truncated {
        part: "payload",
        end,
        length: file.len() as u64,
    })?;
    if elf::is_elf(payload) {
        return Ok(payload.to_vec());
    }
    let packing = Packing::detect(payload).ok_or_else(|| KernelError::UnknownPacking(preview(payload)))?;
    let Some((data, trailer)) = payload.split_last_chunk::<4>() else {
        return Err(KernelError::UnknownPacking(preview(payload)));
    };
    let image = packing.unpack(if packing == Packing::Gzip { payload } else { data }, SIZE_LIMIT)?;
    let (expected, actual) = (u32::from_le_bytes(*trailer), image.len() as u32);
    if expected != actual {
        return Err(KernelError::SizeMismatch { packing, expected, actual });
    }
    Ok(image)
}
