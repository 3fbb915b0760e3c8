//! Compressed grains: a header of zlib, and deflate.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::bytes::index;

/// How much larger than a grain what it is packed into may be, in bytes: more than deflate ever adds.
pub(super) const MAX_PACKED: u64 = 64 << 10;

/// Unpacks a grain of up to `length` bytes. The last one of a disk may be shorter.
pub(super) fn unpack(packed: &[u8], length: usize) -> Result<Vec<u8>, String> {
    let mut grain = vec![0; length];
    let mut inflate = Decompress::new(true);
    let status =
        inflate.decompress(packed, &mut grain, FlushDecompress::Finish).map_err(|error| error.to_string())?;
    grain.truncate(index(inflate.total_out()));
    match status {
        Status::StreamEnd => Ok(grain),
        _ if grain.len() == length => Err("it holds more than a grain, or is cut off".into()),
        Status::Ok | Status::BufError => Err("it is cut off".into()),
    }
}

/// Packs a grain; none if it does not fit into what is read here.
pub(super) fn pack(grain: &[u8]) -> Option<Vec<u8>> {
    let mut deflate = Compress::new(Compression::default(), true);
    let mut packed = vec![0; grain.len().saturating_add(index(MAX_PACKED))];
    let status = deflate.compress(grain, &mut packed, FlushCompress::Finish).ok()?;
    packed.truncate(index(deflate.total_out()));
    (status == Status::StreamEnd).then_some(packed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_packed_is_unpacked_if_it_is_whole() {
        let noise: Vec<u8> = (0..65536_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for grain in [vec![0; 65536], noise.clone(), noise[..512].to_vec()] {
            let mut packed = pack(&grain).unwrap();
            assert!(unpack(&packed, 65536).unwrap() == grain);
            assert!(unpack(&packed, grain.len() - 1).is_err());
            packed.truncate(packed.len() / 2);
            assert!(unpack(&packed, 65536).is_err());
        }
    }
}
