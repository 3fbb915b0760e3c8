//! The root file system that the guests' programs are from: Debian, as an ext4 disk.
//!
//! It is built from the host's own package archive as images of `viv` are, once, and kept beside what it was made of:
//! with other packages it is built anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use viv_image::debian::apt::Apt;
use viv_image::debian::{disk, requirements, root, sources};
use viv_image::tool::{Program, Runner};
use viv_image::{ImageName, Progress, Stage, files};

/// What the workloads run and what it takes to build [`BLOCKS`], beyond the packages Debian marks as essential.
const PACKAGES: &[&str] = &[
    "bash",
    "coreutils",
    "findutils",
    "gcc",
    "gzip",
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
    let (file, ingredients) = (directory.join("root.ext4"), directory.join("root.made-of"));
    let made_of = made_of(image.suite(), &source);
    let is_kept = fs::read_to_string(&ingredients).is_ok_and(|kept| kept == made_of);
    if is_kept && file.exists() {
        return Ok(file);
    }
    // From here on there is none, until there is all of it.
    fs::write(&ingredients, "").with_context(|| format!("writing {}", ingredients.display()))?;
    let workplace = directory.join("root.building");
    files::remove_tree(&workplace)?;
    fs::create_dir_all(&workplace).with_context(|| format!("making {}", workplace.display()))?;
    build(image.suite(), &source, &workplace, &file).context("building the root file system")?;
    files::remove_tree(&workplace)?;
    fs::write(&ingredients, made_of).with_context(|| format!("writing {}", ingredients.display()))?;
    Ok(file)
}

/// Changes with everything that the disk follows from.
fn made_of(suite: &str, source: &str) -> String {
    format!("{suite}\n{}\n\n{source}", PACKAGES.join("\n"))
}

fn build(suite: &str, source: &str, workplace: &Path, file: &Path) -> Result<()> {
    let (log, stop) = (workplace.join("log"), AtomicBool::new(false));
    let runner = Runner::new(&log, workplace, &Told, &stop);
    requirements::provide(&runner, &Told)?;
    let archives = sources::of_host(&runner)?.for_suite(suite);
    let apt = Apt::set_up(&workplace.join("apt"), archives, runner, &Told)?;
    let tree = workplace.join("root");
    root::install(&tree, suite, PACKAGES, &apt, &runner, &Told)?;
    fs::write(tree.join("tmp/blocks.c"), source).context("writing into the root file system")?;
    let words = ["gcc", "-O2", "-o", BLOCKS_PROGRAM, "/tmp/blocks.c", "-lcrypto"];
    runner.run(&Program::new("chroot").arg(&tree).args(words), &mut |_| {})?;
    disk::write(&tree, file, &runner, &Told)?;
    Ok(())
}

/// Tells the user on standard error what is going on.
#[derive(Debug)]
pub struct Told;

impl Progress for Told {
    fn begin(&self, stage: Stage) {
        eprintln!("{stage} …");
    }

    fn advance(&self, _: Stage, _: f64) {}

    fn end(&self, _: Stage) {}

    fn note(&self, text: &str) {
        eprintln!("$ {text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_of_the_same_is_kept() {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let name: ImageName = "debian".parse().unwrap();
        let home = std::env::temp_dir().join(format!("viv-bench-rootfs-{}", std::process::id()));
        fs::create_dir_all(&home).unwrap();
        let source = fs::read_to_string(top.join(BLOCKS)).unwrap();
        fs::write(home.join("root.ext4"), "disk").unwrap();
        fs::write(home.join("root.made-of"), made_of(name.suite(), &source)).unwrap();
        assert_eq!(provide(top, &home, name).unwrap(), home.join("root.ext4"));
        assert_eq!(fs::read_to_string(home.join("root.ext4")).unwrap(), "disk");
        fs::remove_dir_all(&home).unwrap();
        assert_ne!(made_of("a", &source), made_of("b", &source));
        assert_ne!(made_of("a", &source), made_of("a", "other"));
    }
}
