//! Work for a guest's devices, under both contenders, and for the host's own: the same file everywhere.
//!
//! The guest goes past its own cache, and all go through the host's, in which the file is from the start: it is the way
//! between guest and host that is measured, not the host's disk.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::Bench;
use super::contender::{Disk, Guest, Placement};
use super::figures::Workloads;
use super::places;
use super::workloads;

/// Guest RAM in MiB.
const MEMORY: u64 = 512;
/// Bytes of the disk.
const DISK: u64 = 512 << 20;

/// Runs everything alternately, as often as was asked for.
pub fn measure(root: &Path, bench: &Bench) -> Result<Workloads> {
    let program = workloads::compile(&root.join("xtask/guest/devices/main.rs"), &bench.directory)?;
    workloads::check_rows(&program, &bench.rows)?;
    let disk = disk(&bench.directory)?;
    let initrd = bench.initrd(&program)?;
    let writable = Some(Disk { file: &disk, writable: true });
    let guest = Guest {
        bench,
        initrd: &initrd,
        disk: writable,
        kernel_words: "",
        arguments: &bench.rows,
        memory: MEMORY,
        placement: Placement::Pinned,
    };
    let figures = places::alternate("devices", &guest, || Ok(native(bench, &program, &disk)))?;
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

/// The program on the host.
fn native(bench: &Bench, program: &Path, disk: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", &bench.processor.to_string()]).args([program, disk]).args(&bench.rows);
    command
}
