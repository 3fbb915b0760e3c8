//! Damaged images: they are opened, checked, read, written and repaired. Nothing may panic, hang or take much memory, and
//! what was repaired without errors being left is whole.
//!
//! An image from `seeds/` is damaged by a seed: bytes, words of tables, lengths. As a test, a fixed few are. `cargo xtask
//! fuzz` makes more: `VIV_FUZZ_SEED` is the first one's seed, `VIV_FUZZ_SECONDS` says for how long.

use std::time::{Duration, Instant};

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

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed ^ (mixed >> 29)) % end.max(1) as u64) as usize
    }
}

/// An image with some damage, most of it where the header and the tables are.
fn damaged(random: &mut Random, images: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut image = images[random.below(images.len())].as_ref().to_vec();
    for _ in 0..random.below(4) + 1 {
        let words = image.len() / 8;
        let word = match random.below(3) {
            0 => random.below(14),
            // A word that means something.
            1 => (0..200).map(|_| random.below(words)).find(|at| image[at * 8..][..8] != [0; 8]).unwrap_or(0),
            _ => random.below(words),
        };
        let other = random.below(words);
        let value: [u8; 8] = match random.below(7) {
            0 => image[other * 8..][..8].try_into().unwrap(),
            1 => [0xff; 8],
            2 => (random.below(image.len() * 2) as u64 & !511).to_be_bytes(),
            // Two sectors' numbers.
            5 => (random.below(image.len() / 256) as u64 | (random.below(600) as u64) << 32).to_le_bytes(),
            3 => (random.below(image.len()) as u64 & !511 | 1 << 63).to_be_bytes(),
            4 => (1_u64 << random.below(64)).to_be_bytes(),
            _ => {
                image[word * 8 + random.below(8)] ^= 1 << random.below(8);
                continue;
            }
        };
        image[word * 8..][..8].copy_from_slice(&value);
    }
    if random.below(8) == 0 {
        let length = random.below(image.len());
        image.truncate(length);
    }
    image
}

/// Does `exercise` with damaged images for as long as the environment says.
fn run(name: &str, images: &[impl AsRef<[u8]>], exercise: fn(&[u8], u64)) {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let first = number("VIV_FUZZ_SEED").unwrap_or(1);
    let end = number("VIV_FUZZ_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut seed = first;
    while end.map_or(seed < first + CASES, |end| Instant::now() < end) {
        let image = damaged(&mut Random(seed), images);
        if std::panic::catch_unwind(|| exercise(&image, seed)).is_err() {
            panic!("the image of seed {seed} does harm");
        }
        seed += 1;
    }
    if end.is_some() {
        println!("{name}: {} images, seeds {first} to {}", seed - first, seed - 1);
    }
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
