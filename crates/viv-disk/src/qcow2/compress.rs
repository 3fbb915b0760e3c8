//! Compressed clusters.

use std::io::Read;

use flate2::{Compress, Decompress, FlushCompress, FlushDecompress, Status};

use super::header::Compression;

/// The largest window of a Zstandard frame that is accepted, as a power of two: four times the largest cluster.
const MAX_WINDOW: u32 = 23;
/// The window of deflate, as a power of two: the format has it so, other programs do not read more.
const DEFLATE_WINDOW: u8 = 12;

/// Unpacks a cluster into `out`, or says why it cannot be done. What follows it in `packed` is of no concern.
pub(super) fn unpack(how: Compression, packed: &[u8], out: &mut [u8]) -> Result<(), String> {
    match how {
        Compression::Deflate => {
            let mut deflate = Decompress::new(false);
            let status = deflate
                .decompress(packed, out, FlushDecompress::Finish)
                .map_err(|error| error.to_string())?;
            if deflate.total_out() == out.len() as u64 {
                return Ok(());
            }
            Err(match status {
                Status::StreamEnd => "it holds less than a cluster".into(),
                Status::Ok | Status::BufError => "it is cut off".into(),
            })
        }
        Compression::Zstd => {
            let mut reader =
                zstd::stream::read::Decoder::with_buffer(packed).map_err(|error| error.to_string())?;
            reader.window_log_max(MAX_WINDOW).map_err(|error| error.to_string())?;
            reader.single_frame().read_exact(out).map_err(|error| error.to_string())
        }
    }
}

/// Packs a cluster; none if that does not make it smaller.
pub(super) fn pack(how: Compression, cluster: &[u8]) -> Option<Vec<u8>> {
    match how {
        Compression::Deflate => {
            let mut deflate =
                Compress::new_with_window_bits(flate2::Compression::default(), false, DEFLATE_WINDOW);
            let mut packed = vec![0; cluster.len()];
            let status = deflate.compress(cluster, &mut packed, FlushCompress::Finish).ok()?;
            packed.truncate(crate::bytes::index(deflate.total_out()));
            (status == Status::StreamEnd && packed.len() < cluster.len()).then_some(packed)
        }
        Compression::Zstd => {
            let packed = zstd::bulk::compress(cluster, zstd::DEFAULT_COMPRESSION_LEVEL).ok()?;
            (packed.len() < cluster.len()).then_some(packed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_packed_is_unpacked_whatever_follows_it() {
        let cluster: Vec<u8> = (0..65536_u32).map(|i| (i / 7 % 251) as u8).collect();
        for how in [Compression::Deflate, Compression::Zstd] {
            let mut packed = pack(how, &cluster).unwrap();
            assert!(packed.len() < cluster.len() / 4);
            let cut = packed.len() / 2;
            packed.extend([0xee; 500]);
            let mut out = vec![0; cluster.len()];
            unpack(how, &packed, &mut out).unwrap();
            assert!(out == cluster);
            assert!(unpack(how, &packed[..cut], &mut out).is_err());
            assert!(unpack(how, &packed, &mut vec![0; cluster.len() + 1]).is_err());
            assert!(unpack(how, &[0xee; 512], &mut out).is_err());
            let noise: Vec<u8> = (0..4096_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
            assert!(pack(how, &noise).is_none_or(|packed| packed.len() < noise.len()));
        }
    }
}
