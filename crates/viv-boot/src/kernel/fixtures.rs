//! Small kernels for tests: well formed, with content that does nothing.

use std::io::{Read, Write};

use liblzma::stream::{Check, Filters, LzmaOptions, Stream};

use super::Packing;

/// Where the fixtures' first segment goes, and where they are entered by the 64-bit protocol.
pub const ENTRY: u64 = 0x20_0000;
/// Where they are entered by PVH.
pub const PVH_ENTRY: u64 = ENTRY + 0x10;
/// What follows the first segment's content up to its size in memory.
pub const BSS: u64 = 0x1800;

/// The packings that can be unpacked.
pub const PACKINGS: [Packing; 6] =
    [Packing::Gzip, Packing::Xz, Packing::Lzma, Packing::Lz4, Packing::Zstd, Packing::Bzip2];

/// What goes to [`ENTRY`]: bytes that pack neither to nothing nor not at all.
pub fn content() -> Vec<u8> {
    (0..0x3000_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect()
}

fn note() -> Vec<u8> {
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
    let entry = &PVH_ENTRY.to_le_bytes();
    // Another note first, with a name and content that need padding.
    [&words(&[6, 3, 1]), &b"Linux\0\0\0abc\0"[..], &words(&[4, 8, 18]), b"Xen\0", entry].concat()
}

/// A 64-bit image in the shape of a Linux: a segment in the high half, and a PVH note if asked for.
pub fn elf64(with_note: bool) -> Vec<u8> {
    let content = content();
    let note = note();
    let (count, data) = (if with_note { 2_u16 } else { 1 }, 0x100_u64);
    let mut image = b"\x7fELF\x02\x01\x01".to_vec();
    image.resize(16, 0);
    for half in [2_u16, 62] {
        image.extend(half.to_le_bytes());
    }
    image.extend(1_u32.to_le_bytes());
    for word in [ENTRY, 64, 0] {
        image.extend(word.to_le_bytes());
    }
    image.extend(0_u32.to_le_bytes());
    for half in [64, 56, count, 64, 0, 0] {
        image.extend(half.to_le_bytes());
    }
    let size = content.len() as u64;
    for (kind, [offset, virtual_address, address, file_size, memory_size]) in [
        (1_u32, [data, 0xffff_ffff_8020_0000, ENTRY, size, size + BSS]),
        (4, [data + size, 0, 0, note.len() as u64, note.len() as u64]),
    ] {
        image.extend(kind.to_le_bytes());
        image.extend(7_u32.to_le_bytes());
        for word in [offset, virtual_address, address, file_size, memory_size, 4] {
            image.extend(word.to_le_bytes());
        }
    }
    image.resize(data as usize, 0);
    image.extend(content);
    image.extend(note);
    image
}

/// A 32-bit image with a PVH note.
pub fn elf32() -> Vec<u8> {
    let content = content();
    let note = note();
    let (size, data) = (content.len() as u32, 0x100);
    let mut image = b"\x7fELF\x01\x01\x01".to_vec();
    image.resize(16, 0);
    image.extend([2_u16, 3].iter().flat_map(|half| half.to_le_bytes()));
    image.extend([1, ENTRY as u32, 52, 0, 0].iter().flat_map(|word: &u32| word.to_le_bytes()));
    image.extend([52_u16, 32, 2, 40, 0, 0].iter().flat_map(|half| half.to_le_bytes()));
    for header in [
        [1, data, ENTRY as u32, ENTRY as u32, size, size + BSS as u32, 7, 4],
        [4, data + size, 0, 0, note.len() as u32, note.len() as u32, 4, 4],
    ] {
        image.extend(header.iter().flat_map(|word| word.to_le_bytes()));
    }
    image.resize(data as usize, 0);
    image.extend(content);
    image.extend(note);
    image
}

/// Packs `data` as a kernel's build would.
pub fn pack(packing: Packing, data: &[u8]) -> Vec<u8> {
    let lzma_options = LzmaOptions::new_preset(6).unwrap();
    let with_lzma = |stream: Stream| {
        let mut packed = Vec::new();
        liblzma::read::XzEncoder::new_stream(data, stream).read_to_end(&mut packed).unwrap();
        packed
    };
    match packing {
        Packing::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        Packing::Xz => {
            let filters = &mut Filters::new();
            filters.x86().lzma2(&lzma_options);
            with_lzma(Stream::new_stream_encoder(filters, Check::Crc32).unwrap())
        }
        Packing::Lzma => with_lzma(Stream::new_lzma_encoder(&lzma_options).unwrap()),
        Packing::Lz4 => {
            let mut packed = 0x184c_2102_u32.to_le_bytes().to_vec();
            // Several blocks, where a real one would have 8 MiB each.
            for block in data.chunks(5000) {
                let block = lz4_flex::block::compress(block);
                packed.extend((block.len() as u32).to_le_bytes());
                packed.extend(block);
            }
            packed
        }
        Packing::Zstd => zstd::encode_all(data, 19).unwrap(),
        Packing::Bzip2 => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        Packing::Lzo => b"\x89LZO\0\r\n\x1a\n".to_vec(),
        Packing::Lz4Frame => vec![0x04, 0x22, 0x4d, 0x18],
    }
}

/// A bzImage around a payload that is already packed, trailer included.
pub fn bzimage_around(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 1024];
    file[0x1f1] = 1;
    file[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    file[0x200..0x202].copy_from_slice(&[0xeb, 0x6a]);
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
    file[0x211] = 0x81;
    file[0x22c..0x230].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
    file[0x238..0x23c].copy_from_slice(&2047_u32.to_le_bytes());
    let code = [0x90; 40];
    file[0x248..0x24c].copy_from_slice(&(code.len() as u32).to_le_bytes());
    file[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    // Beyond the header, to show whether a loader stops at its end.
    file[0x26c..0x290].fill(0xee);
    [&file, &code[..], payload].concat()
}

/// A bzImage with the 64-bit image inside.
pub fn bzimage(packing: Packing) -> Vec<u8> {
    let image = elf64(true);
    let mut payload = pack(packing, &image);
    if packing != Packing::Gzip {
        payload.extend((image.len() as u32).to_le_bytes());
    }
    bzimage_around(&payload)
}
