//! `viv disk convert`.

use viv_disk::vmdk::Layout;
use viv_disk::{Access, DiskError, NewDisk, NewFormat};

use super::{bar, failed, format_of, new_format};
use crate::cli::ConvertArgs;
use crate::failure::Failure;

/// How much is read at once.
const PIECE: u64 = 2 << 20;
/// In what pieces zeroes are left out.
const BLOCK: usize = 64 << 10;

/// Copies a disk; what is zeroes takes no space in the copy.
pub fn run(args: &ConvertArgs) -> Result<(), Failure> {
    let read = |error: DiskError| failed("converting", &args.source, &error);
    let format = format_of(&args.source, args.format).map_err(read)?;
    let mut into = new_format(&args.target, args.output_format, &args.layout)?;
    // Compressed clusters and grains are written whole.
    let block = match &mut into {
        NewFormat::Raw if args.compress => {
            return Err(Failure::new("--compress", "a raw image cannot be compressed")
                .remedy("give -O qcow2 or -O vmdk"));
        }
        NewFormat::Qcow2(options) if args.compress => options.cluster_size as usize,
        NewFormat::Vmdk(layout) if args.compress => {
            *layout = Layout::Stream;
            BLOCK
        }
        NewFormat::Raw | NewFormat::Qcow2(_) | NewFormat::Vmdk(_) => BLOCK,
    };
    let source = viv_disk::open(&args.source, format, Access::ReadOnly).map_err(read)?;
    let write = |error: DiskError| failed("writing", &args.target, &error);
    let mut target = NewDisk::create(&args.target, source.size(), &into).map_err(write)?;
    let bar = bar("converting", source.size());
    let mut data = vec![0; PIECE as usize];
    let mut offset = 0;
    while let Some(found) = source.data_from(offset).map_err(read)? {
        let begin = found.start / block as u64 * block as u64;
        let begin = begin.max(offset);
        let length = (found.end - begin).next_multiple_of(block as u64).min(PIECE).min(source.size() - begin);
        let piece = &mut data[..length as usize];
        source.read_at(begin, piece).map_err(read)?;
        copy(&mut target, begin, piece, block, args.compress).map_err(write)?;
        offset = begin + length;
        bar.set_position(offset);
    }
    target.finish().map_err(write)?;
    bar.finish_and_clear();
    Ok(())
}

/// Writes what is not zero, in runs of blocks.
fn copy(
    target: &mut NewDisk,
    offset: u64,
    data: &[u8],
    block: usize,
    compress: bool,
) -> Result<(), DiskError> {
    let blocks: Vec<&[u8]> = data.chunks(block).collect();
    let mut at = 0;
    for run in blocks.chunk_by(|one, next| is_zero(one) == is_zero(next)) {
        let length = run.iter().map(|block| block.len()).sum::<usize>();
        if !run.first().is_some_and(|first| is_zero(first)) {
            if compress {
                for (block, at) in run.iter().zip((at..).step_by(block)) {
                    target.write_compressed(offset + at as u64, block)?;
                }
            } else {
                target.write_at(offset + at as u64, &data[at..at + length])?;
            }
        }
        at += length;
    }
    Ok(())
}

fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}
