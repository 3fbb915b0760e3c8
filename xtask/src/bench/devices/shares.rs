//! A directory of the host's: by `viv`, and by QEMU with virtiofsd.
//!
//! The directory is in memory: it is the way between guest and host that is measured, not the host's file system. Guest and
//! server are on one processor.

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::{Group, MEMORY, native};
use crate::bench::contender::{Disk, Guest, Placement, Share};
use crate::bench::figures::Workloads;
use crate::bench::{image_name, places, rootfs};
use crate::packages;

/// Where files are in memory.
const IN_MEMORY: &str = "/dev/shm";

/// Runs the rows.
pub fn measure(group: &Group<'_>) -> Result<Workloads> {
    ensure!(packages::is_root(), "the rows of shared directories need root, as whom alone virtiofsd serves");
    // virtiofsd is in it.
    packages::ensure(&["qemu-system-common"])?;
    let bench = group.bench;
    let directory = TempDir::new_in(IN_MEMORY).context("making a directory in memory")?;
    // The drivers are not among those of the initial RAM disk.
    let disk = match &bench.image {
        Some(image) => image.root(),
        None => rootfs::provide(group.root, &bench.directory, image_name()?)?,
    };
    let words = group.words(["share", &directory.path().to_string_lossy()]);
    let guest = Guest {
        bench,
        initrd: group.initrd,
        disk: Some(Disk { file: &disk, writable: false }),
        network: None,
        share: Some(Share {
            directory: directory.path(),
            virtiofsd: &bench.directory.join("virtiofsd.socket"),
        }),
        kernel_words: "",
        arguments: &words,
        memory: MEMORY,
        placement: Placement::Pinned,
    };
    places::alternate("shared directories", &guest, || Ok(native(group, guest.placement, &words)))
}
