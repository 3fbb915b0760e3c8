//! Damaged images: they are opened, checked, read, written and repaired. Nothing may panic, hang or take much memory, and
//! what was repaired without errors being left is whole.
//!
//! An image from `seeds/` is damaged by a seed: bytes, words of tables, lengths.

use viv_fuzz::Random;

use crate::{qcow2, vmdk};

/// Images that QEMU made: of version 2; compressed by Zstandard; with a snapshot; with subclusters.
const QCOW2: [&[u8]; 4] = [
    include_bytes!("../../seeds/plain.qcow2"),
    include_bytes!("../../seeds/zstd.qcow2"),
    include_bytes!("../../seeds/narrow.qcow2"),
    include_bytes!("../../seeds/extended.qcow2"),
];
/// How many a test makes.
const CASES: u64 = 1500;

/// An image with some damage, most of it where the header and the tables are.
fn damaged(random: &mut Random, images: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut image = images[random.index(images.len())].as_ref().to_vec();
    for _ in 0..random.index(4) + 1 {
        let words = image.len() / 8;
        let word = match random.index(3) {
            0 => random.index(14),
            // A word that means something.
            1 => (0..200).map(|_| random.index(words)).find(|at| image[at * 8..][..8] != [0; 8]).unwrap_or(0),
            _ => random.index(words),
        };
        let other = random.index(words);
        let value: [u8; 8] = match random.index(7) {
            0 => image[other * 8..][..8].try_into().unwrap(),
            1 => [0xff; 8],
            2 => (random.index(image.len() * 2) as u64 & !511).to_be_bytes(),
            // Two sectors' numbers.
            5 => (random.index(image.len() / 256) as u64 | (random.index(600) as u64) << 32).to_le_bytes(),
            3 => (random.index(image.len()) as u64 & !511 | 1 << 63).to_be_bytes(),
            4 => (1_u64 << random.index(64)).to_be_bytes(),
            _ => {
                image[word * 8 + random.index(8)] ^= 1 << random.index(8);
                continue;
            }
        };
        image[word * 8..][..8].copy_from_slice(&value);
    }
    if random.index(8) == 0 {
        let length = random.index(image.len());
        image.truncate(length);
    }
    image
}

/// Does `exercise` with damaged images.
fn run(target: &str, images: &[impl AsRef<[u8]>], exercise: fn(&[u8], u64)) {
    viv_fuzz::run(target, CASES, |seed| exercise(&damaged(&mut Random::new(seed), images), seed));
}

mod target {
    use super::*;

    #[test]
    fn qcow2() {
        run("qcow2", &QCOW2, qcow2::fuzz::exercise);
    }

    #[test]
    fn vmdk() {
        run("vmdk", &vmdk::fuzz::images(), vmdk::fuzz::exercise);
    }
}
