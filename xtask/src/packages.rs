//! The Debian packages that chores need.

use std::process::Command;

use anyhow::{Result, bail};

use crate::step;

/// What tests call, by package.
pub const FOR_TESTS: &[&str] = &[
    // The system of guests that are booted directly.
    "busybox-static",
    // e2fsck and debugfs, to check a disk that a guest wrote.
    "e2fsprogs",
    // Networks for guests.
    "iproute2",
    // To build the image that tests boot.
    "mmdebstrap",
    // 32-bit programs for guests, and the libraries that they are given.
    "gcc-multilib",
    "libc6-dev-i386",
    // The same in the guest and here: perl and gzip.
    "perl-base",
    "gzip",
    // To debug guests.
    "gdb",
    // Firmware for UEFI.
    "ovmf",
    // qemu-storage-daemon and virtiofsd, which do the work of devices for guests.
    "qemu-system-common",
    // qemu-img and qemu-io, to make and check images.
    "qemu-utils",
    // Systems that are started.
    "debian-installer-12-netboot-amd64",
    "gnumach-image-1.8-486",
    "grub-rescue-pc",
    "memtest86+",
    // grub-mkrescue, beside what is among those for disks.
    "xorriso",
    // setsid, to give a test a terminal of its own.
    "util-linux",
];

/// What it takes to build a disk with Debian installed on it, and to start it.
pub const FOR_DISKS: &[&str] = &[
    // mke2fs.
    "e2fsprogs",
    // sfdisk.
    "fdisk",
    // grub-mkimage, and what it makes its images of.
    "grub-common",
    "grub-efi-amd64-bin",
    "grub-pc-bin",
    "mmdebstrap",
    "mtools",
    "seabios",
];

/// Installs what is missing, where this runs as root; elsewhere says what to run.
pub fn ensure(needed: &[&str]) -> Result<()> {
    let missing: Vec<&str> = needed.iter().copied().filter(|package| !is_installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let install = ["install", "--yes", "--no-install-recommends"];
    if !is_root() {
        bail!("this needs {0}; run: sudo apt-get {1} {0}", missing.join(" "), install.join(" "));
    }
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        apt
    };
    let done =
        step::run(apt().args(["update", "--quiet"]))? && step::run(apt().args(install).args(&missing))?;
    if !done {
        bail!("apt-get could not install {}; its messages are above", missing.join(" "));
    }
    Ok(())
}

fn is_installed(package: &str) -> bool {
    let query =
        Command::new("dpkg-query").args(["--show", "--showformat=${db:Status-Status}", package]).output();
    query.is_ok_and(|output| output.stdout == b"installed")
}

/// Whether this runs as root.
pub fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
