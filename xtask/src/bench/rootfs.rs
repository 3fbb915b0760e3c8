//! The root file system that the guests' programs are from.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use viv_image::ImageName;

use viv_testbed::rootfs::{self, BuiltProgram, Recipe};

/// What the workloads and the rows of networks run, and what it takes to build [`BLOCKS`], beyond the packages Debian marks as essential.
const PACKAGES: &[&str] = &[
    "bash",
    "coreutils",
    "findutils",
    "gcc",
    "gzip",
    "iperf3",
    "libc6-dev",
    "libssl-dev",
    "openssl",
    "perl",
    "python3-minimal",
    "sqlite3",
    "xz-utils",
];

/// A program of the workloads' own that needs the libraries of the root file system: its source, and where it goes.
const BLOCKS: &str = "xtask/guest/workloads/openssl-blocks.c";
const BLOCKS_PROGRAM: &str = "/usr/local/bin/openssl-blocks";

/// The disk, built if there is none of these packages in `directory`. `top` is the root of the repository.
pub fn provide(top: &Path, directory: &Path, image: ImageName) -> Result<PathBuf> {
    let source = fs::read_to_string(top.join(BLOCKS)).with_context(|| format!("reading {BLOCKS}"))?;
    let blocks = BuiltProgram { source, file: BLOCKS_PROGRAM, libraries: &["-lcrypto"] };
    let recipe = Recipe { packages: PACKAGES, programs: &[blocks], ..Recipe::default() };
    rootfs::provide(&recipe, directory, image)
}
