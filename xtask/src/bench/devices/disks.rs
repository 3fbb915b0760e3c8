//! Disks: the same file everywhere.
//!
//! The guest goes past its own cache, and all go through the host's, in which the file is from the start: it is the way
//! between guest and host that is measured, not the host's disk.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Group, MEMORY, native};
use crate::bench::contender::{Disk, Guest, Placement};
use crate::bench::figures::Workloads;
use crate::bench::places;

/// Bytes of the disk.
const DISK: u64 = 512 << 20;
/// What a guest calls it.
const GUESTS_NAME: &str = "/dev/vda";

/// Runs the rows.
pub fn measure(group: &Group<'_>) -> Result<Workloads> {
    let disk = disk(&group.bench.directory)?;
    let guest = Guest {
        bench: group.bench,
        initrd: group.initrd,
        disk: Some(Disk { file: &disk, writable: true }),
        network: None,
        share: None,
        kernel_words: "",
        arguments: &group.words(["disk", GUESTS_NAME]),
        memory: MEMORY,
        placement: Placement::Pinned,
    };
    let words = group.words(["disk", &disk.to_string_lossy()]);
    let figures = places::alternate("disks", &guest, || Ok(native(group, guest.placement, &words)))?;
    fs::remove_file(&disk).with_context(|| format!("removing {}", disk.display()))?;
    Ok(figures)
}

/// A new disk, each 4 KiB of which begin with their number, and which the host has in memory.
fn disk(directory: &Path) -> Result<PathBuf> {
    let path = directory.join("devices.disk");
    let written = File::create(&path).map(BufWriter::new).and_then(|mut file| {
        let mut block = [0xa5; 4096];
        for number in 0..DISK / 4096 {
            block[0] = number as u8;
            file.write_all(&block)?;
        }
        // What the host would otherwise write to its disk while others are measured.
        file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()
    });
    written.with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}
