//! What direct access to a file asks of offsets, lengths and memory (`O_DIRECT`).

use std::fs::File;
use std::io;
use std::ops::Range;

use rustix::fs::{AtFlags, StatxFlags};

/// The size of blocks and the alignment of memory where the host does not say: what no host exceeds.
const UNKNOWN: u32 = 4096;
/// The most that either can be: a larger answer is an error of the host's.
const LARGEST: u32 = 64 << 10;

/// What direct access asks for, in bytes; powers of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Alignment {
    /// Of addresses in memory.
    pub(crate) memory: u64,
    /// Of offsets and lengths.
    pub(crate) offset: u64,
}

impl Alignment {
    /// What `file` asks for.
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let status = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)?;
        let known = status.stx_mask & StatxFlags::DIOALIGN.bits() != 0;
        let (memory, offset) =
            if known { (status.stx_dio_mem_align, status.stx_dio_offset_align) } else { (UNKNOWN, UNKNOWN) };
        if [memory, offset].iter().any(|align| !align.is_power_of_two() || *align > LARGEST) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "its file system has no direct access"));
        }
        Ok(Self { memory: memory.into(), offset: offset.into() })
    }

    /// Whether a transfer fits as it is. Of `addresses` there are those of its parts and their lengths.
    pub(crate) fn fits(self, offset: u64, parts: impl IntoIterator<Item = (u64, u64)>) -> bool {
        let all = parts
            .into_iter()
            .fold((0, 0), |(addresses, lengths), (address, length)| (addresses | address, lengths | length));
        is_multiple(offset | all.1, self.offset) && is_multiple(all.0, self.memory)
    }

    /// The whole blocks around `length` bytes at `offset`.
    pub(crate) fn around(self, offset: u64, length: u64) -> Range<u64> {
        let mask = self.offset.wrapping_sub(1);
        let end = offset.saturating_add(length).saturating_add(mask) & !mask;
        offset & !mask..end
    }
}

fn is_multiple(value: u64, of: u64) -> bool {
    value & of.wrapping_sub(1) == 0
}

/// Bytes at an address that direct access takes anywhere.
pub(crate) struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    /// `length` zeroes.
    pub(crate) fn new(length: usize) -> Self {
        let bytes = vec![0; length.saturating_add(LARGEST as usize)];
        let start = bytes.as_ptr().align_offset(LARGEST as usize).min(LARGEST as usize);
        Self { bytes, start, length }
    }

    /// The first `length` of them, or all.
    pub(crate) fn first(&mut self, length: u64) -> &mut [u8] {
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(self.length);
        self.bytes.get_mut(self.start..).and_then(|rest| rest.get_mut(..length)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_aligned_in_all_its_parts() {
        let align = Alignment { memory: 4, offset: 512 };
        assert!(align.fits(1024, [(8, 512), (1 << 40, 1024)]));
        assert!(!align.fits(1025, [(8, 512)]));
        assert!(!align.fits(0, [(8, 512), (8, 511)]));
        assert!(!align.fits(0, [(8, 512), (6, 512)]));
        assert_eq!((align.around(511, 2), align.around(512, 512)), (0..1024, 512..1024));
    }

    #[test]
    fn memory_is_aligned() {
        let mut memory = Aligned::new(1000);
        assert_eq!((memory.first(2000).len(), memory.first(7).len()), (1000, 7));
        assert_eq!(memory.first(1).as_ptr() as usize % LARGEST as usize, 0);
    }
}
