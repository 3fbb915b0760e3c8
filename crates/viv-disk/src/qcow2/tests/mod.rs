//! Images against a model, against QEMU's programs, and under cuts of the power.

pub(crate) mod fuzz;
mod interop;
mod killed;
mod model;
mod power;

use std::path::PathBuf;

use super::*;
use crate::Format;
use crate::testing::{Random, patiently, setting, tool};

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

/// Opens an image for writing.
fn reopen(path: &Path) -> Qcow2Disk {
    patiently(|| Qcow2Disk::open(path, Access::ReadWrite))
}

/// What our own check finds.
fn findings(path: &Path) -> Check {
    patiently(|| check(path, Repair::No))
}
