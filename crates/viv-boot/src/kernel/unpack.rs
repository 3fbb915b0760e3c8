//! The packings that kernels come in.

use std::fmt;
use std::io::{self, Read};

use bzip2::bufread::BzDecoder;
use flate2::bufread::GzDecoder;
use liblzma::bufread::XzDecoder;
use liblzma::stream::Stream;

use super::KernelError;

/// A packing, told by the magic bytes that data begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the formats' own names")]
pub enum Packing {
    Gzip,
    Xz,
    Lzma,
    Lz4,
    Zstd,
    Bzip2,
    Lzo,
    Lz4Frame,
}

/// The magic number of LZ4's legacy format, little endian.
const LZ4_LEGACY: [u8; 4] = 0x184c_2102_u32.to_le_bytes();
/// What a block of LZ4's legacy format unpacks to at most.
const LZ4_LEGACY_BLOCK: usize = 8 << 20;

const MAGIC: [(&[u8], Packing); 8] = [
    (&[0x1f, 0x8b], Packing::Gzip),
    (b"\xfd7zXZ\0", Packing::Xz),
    (&[0x5d, 0, 0], Packing::Lzma),
    (&LZ4_LEGACY, Packing::Lz4),
    (&[0x28, 0xb5, 0x2f, 0xfd], Packing::Zstd),
    (b"BZh", Packing::Bzip2),
    (b"\x89LZO", Packing::Lzo),
    (&[0x04, 0x22, 0x4d, 0x18], Packing::Lz4Frame),
];

/// How much memory an xz or lzma decoder may use. Its dictionary is at most as large as a kernel is; the
/// kernel's own build uses 32 MiB.
const LZMA_MEMORY: u64 = 256 << 20;

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Packing {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Lzma => "lzma",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
            Self::Lzo => "lzo",
            Self::Lz4Frame => "lz4 (frame format)",
        }
    }

    pub(super) fn detect(data: &[u8]) -> Option<Self> {
        MAGIC.iter().find(|(magic, _)| data.starts_with(magic)).map(|(_, packing)| *packing)
    }

    /// Unpacks `data` to at most `limit` bytes. What follows the packed stream is ignored, but for
    /// [`Packing::Lz4`], which has no mark for its end.
    pub(super) fn unpack(self, data: &[u8], limit: u64) -> Result<Vec<u8>, KernelError> {
        let mut image = Vec::new();
        match self {
            Self::Gzip => drain(GzDecoder::new(data), &mut image, limit),
            Self::Xz | Self::Lzma => Stream::new_auto_decoder(LZMA_MEMORY, 0)
                .map_err(io::Error::other)
                .and_then(|stream| drain(XzDecoder::new_stream(data, stream), &mut image, limit)),
            Self::Lz4 => unpack_lz4_legacy(data, &mut image, limit),
            Self::Zstd => zstd::Decoder::with_buffer(data)
                .and_then(|decoder| drain(decoder.single_frame(), &mut image, limit)),
            Self::Bzip2 => drain(BzDecoder::new(data), &mut image, limit),
            Self::Lzo | Self::Lz4Frame => return Err(KernelError::UnsupportedPacking(self.name())),
        }
        .map_err(|source| KernelError::Damaged { packing: self, source })?;
        if image.len() as u64 > limit {
            return Err(KernelError::UnpacksTooLarge { packing: self, limit });
        }
        Ok(image)
    }
}

/// Reads all that a decoder gives, but stops just beyond the limit, to show that there is more.
fn drain(decoder: impl Read, image: &mut Vec<u8>, limit: u64) -> io::Result<()> {
    decoder.take(limit + 1).read_to_end(image).map(drop)
}

/// LZ4's legacy format (the LZ4 frame format, "Legacy frame"): the magic number, then blocks, each after its
/// packed size, to the end of the data. Streams may follow one another. It stops beyond the limit.
fn unpack_lz4_legacy(mut data: &[u8], image: &mut Vec<u8>, limit: u64) -> io::Result<()> {
    // One buffer for all blocks: growing the image before each would clear 8 MiB for blocks of nothing.
    let mut buffer = vec![0; LZ4_LEGACY_BLOCK];
    while let Some((word, rest)) = data.split_first_chunk() {
        data = rest;
        if *word == LZ4_LEGACY {
            continue;
        }
        let size = u32::from_le_bytes(*word) as usize;
        let (block, rest) = data.split_at_checked(size).ok_or(io::ErrorKind::UnexpectedEof)?;
        let unpacked = lz4_flex::block::decompress_into(block, &mut buffer).map_err(io::Error::other)?;
        image.extend_from_slice(&buffer[..unpacked]);
        if image.len() as u64 > limit {
            return Ok(());
        }
        data = rest;
    }
    if data.is_empty() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
