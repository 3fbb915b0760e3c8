//! Pieces of work in a guest, under both contenders, and on the host itself: the same root file system everywhere.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Bench;
use super::contender::{Disk, Guest, Placement};
use super::figures::Workloads;
use super::places;
use super::rootfs;
use super::workloads;
use crate::packages;

/// Guest RAM in MiB: what programs are read from and write to stays in it.
const MEMORY: u64 = 1024;

/// Mounts the disk in `$1` on `$2` and becomes the program in `$3`.
const MOUNT: &str = r#"
disk=$1 root=$2 program=$3
shift 3
mount -o loop,ro "$disk" "$root" && exec "$program" "$root" "$@"
"#;

/// Runs everything alternately, as often as was asked for.
pub fn measure(root: &Path, bench: &Bench) -> Result<Workloads> {
    ensure!(
        packages::is_root(),
        "the workloads need root, who alone can mount and change the root directory"
    );
    let program = workloads::compile(&root.join("xtask/guest/workloads/main.rs"), &bench.directory)?;
    workloads::check_rows(&workloads::list(&program)?.lines().collect::<Vec<_>>(), &bench.rows)?;
    let disk = rootfs::provide(root, &bench.directory, super::image_name()?)?;
    let initrd = bench.initrd(&program)?;
    let guest = Guest {
        bench,
        initrd: &initrd,
        disk: Some(Disk { file: &disk, writable: false }),
        network: None,
        share: None,
        kernel_words: "",
        arguments: &bench.rows,
        memory: MEMORY,
        placement: Placement::Pinned,
    };
    places::alternate("workloads", &guest, || native(bench, &program, &disk))
}

/// The program on the host, whose clock is then the guest's too. What it mounts is gone with it.
fn native(bench: &Bench, program: &Path, disk: &Path) -> Result<Command> {
    let root = bench.directory.join("root");
    fs::create_dir_all(&root).with_context(|| format!("making {}", root.display()))?;
    let mut command = Command::new("taskset");
    command
        .args(["--cpu-list", &bench.processor.to_string()])
        .args(["unshare", "--mount", "--propagation", "private", "sh", "-c", MOUNT, "workloads"])
        .args([disk, &root, program])
        .args(&bench.rows);
    Ok(command)
}
