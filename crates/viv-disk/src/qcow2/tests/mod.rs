//! Images against a model, against QEMU's programs, and under cuts of the power.

pub(crate) mod fuzz;
mod interop;
mod killed;
mod model;
mod power;
mod recorder;
mod tool;

use std::path::PathBuf;

use super::*;
use crate::Format;

/// Numbers that look random, by a seed.
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
}

/// Any kind of image that there is.
fn any_options(random: &mut Random) -> CreateOptions {
    let version = random.one_of(&[2, 3, 3, 3]);
    let mut options = CreateOptions {
        version,
        cluster_size: random.one_of(&[512, 1024, 4096, 16 << 10, 64 << 10]),
        ..CreateOptions::default()
    };
    if version == 3 {
        options.refcount_bits = random.one_of(&[1, 2, 4, 8, 16, 16, 32, 64]);
        options.extended_l2 = options.cluster_size >= 16 << 10 && random.chance(2);
        options.lazy_refcounts = random.chance(4);
        options.compression = random.one_of(&[Compression::Deflate, Compression::Zstd]);
    }
    options
}

/// Does something to an image that nobody else has open. While another thread starts a program, that one holds our locks
/// for a moment.
fn patiently<T>(mut action: impl FnMut() -> Result<T, DiskError>) -> T {
    loop {
        match action() {
            Err(DiskError::InUse { .. }) => std::thread::yield_now(),
            done => return done.unwrap(),
        }
    }
}

/// Opens an image for writing.
fn reopen(path: &Path) -> Qcow2Disk {
    patiently(|| Qcow2Disk::open(path, Access::ReadWrite))
}

/// What our own check finds.
fn findings(path: &Path) -> Check {
    patiently(|| check(path, Repair::No))
}

/// The number in the environment, or another.
fn setting(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}
