//! What tests share.

mod fuzz;
pub(crate) mod history;
pub(crate) mod model;
pub(crate) mod recorder;
pub(crate) mod tool;

use crate::DiskError;

/// Numbers that look random, by a seed.
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }

    pub(crate) fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
}

/// Does something to an image that nobody else has open. While another thread starts a program, that one holds our locks
/// for a moment.
pub(crate) fn patiently<T>(mut action: impl FnMut() -> Result<T, DiskError>) -> T {
    loop {
        match action() {
            Err(DiskError::InUse { .. }) => std::thread::yield_now(),
            done => return done.unwrap(),
        }
    }
}

/// The number in the environment, or another.
pub(crate) fn setting(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}
