//! What the fuzz targets of all crates have in common: numbers that a seed gives, and how long a target goes on.
//!
//! A target is a test of the crate that it is about, `testing::fuzz::target::NAME`, and makes one case of each seed. As a
//! test it makes a fixed few. `cargo xtask fuzz NAME` has it go on for as long as one likes, from another seed each time.
//!
//! It knows nothing of what is tested, and is no part of the program: nothing here is linked into `viv`.
#![forbid(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// The variable of the environment with the first seed.
pub const SEED: &str = "VIV_FUZZ_SEED";
/// The variable of the environment that says for how many seconds.
pub const SECONDS: &str = "VIV_FUZZ_SECONDS";

/// Runs `case` with one seed after the other: with `cases` of them, or for as long as the environment says.
///
/// # Panics
/// When a case panics; the message names its seed.
pub fn run(target: &str, cases: u64, mut case: impl FnMut(u64)) {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let first = number(SEED).unwrap_or(1);
    let end = number(SECONDS).map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut seed = first;
    while end.map_or(seed < first + cases, |end| Instant::now() < end) {
        let done = catch_unwind(AssertUnwindSafe(|| case(seed)));
        assert!(done.is_ok(), "{target} fails with seed {seed}");
        seed += 1;
    }
    if end.is_some() {
        println!("{target}: {} cases, seeds {first} to {}", seed - first, seed - 1);
    }
}

/// Numbers that look random and are the same for the same seed (splitmix64: neighbouring seeds give other numbers).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Those of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 if that is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end.max(1)
    }

    /// As [`Random::below`], of something in memory.
    pub fn index(&mut self, end: usize) -> usize {
        self.below(end as u64) as usize
    }

    /// One of several, of which there is at least one.
    ///
    /// # Panics
    /// When there is none.
    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.index(all.len())]
    }

    /// True once in so many times.
    pub fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    /// So many bytes of any kind.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.number() as u8).collect()
    }

    /// Changes some of `bytes`, takes some out or puts some in.
    pub fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..self.below(12) {
            let at = self.index(bytes.len());
            match self.below(4) {
                0 if !bytes.is_empty() => bytes[at] = self.number() as u8,
                1 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                2 => bytes.truncate(at),
                _ => {
                    let count = self.index(40);
                    let more = self.bytes(count);
                    bytes.splice(at..at, more);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_says_all() {
        let numbers = |seed| {
            let mut random = Random::new(seed);
            (random.number(), random.below(10), random.one_of(&[1, 2, 3]), random.bytes(3))
        };
        assert_eq!(numbers(7), numbers(7));
        assert_ne!(numbers(7), numbers(8));
        let mut nothing = Vec::new();
        (0..100).for_each(|seed| Random::new(seed).damage(&mut nothing));
    }

    #[test]
    #[should_panic(expected = "some target fails with seed 5")]
    fn the_seed_of_a_failure_is_told() {
        // Whatever the environment says of it, the fifth is among the first ten.
        run("some target", 10, |seed| assert_ne!(seed, 5));
    }
}
