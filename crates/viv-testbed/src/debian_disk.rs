//! Debian on a disk, as an installer leaves it: partitions, GRUB for BIOS and UEFI, Debian's kernel with its initial RAM
//! disk, systemd, and Xen to choose in GRUB's menu.
//!
//! The console is the first serial port, on which root logs in without a password. GRUB waits for a choice from its menu:
//! Enter takes Debian, the key `x` Xen with Debian as its first domain.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use viv_image::ImageName;
use viv_image::debian::{disk, root};
use viv_image::tool::{Program, Runner};

use crate::rootfs::{self, Recipe, Told};
use crate::{grub, kept, partitions};

/// Packages beyond those that Debian marks as essential.
const PACKAGES: &[&str] = &[
    "dbus",
    "initramfs-tools",
    "iproute2",
    "kmod",
    "libpam-systemd",
    "linux-image-amd64",
    "login",
    "systemd-sysv",
    "udev",
    "xen-hypervisor-4.17-amd64",
    "xen-utils-4.17",
    "zstd",
];

/// File systems to mount (fstab(5)).
const FSTAB: &str = "LABEL=root / ext4 errors=remount-ro 0 1\n";

/// GRUB's menu. It writes to the serial port by itself and is typed to through the firmware, which may read that port
/// too.
const GRUB_CFG: &str = "\
serial --unit=0 --speed=115200
terminal_output serial
set timeout=-1
menuentry 'Debian' {
    linux /vmlinuz root=LABEL=root ro console=ttyS0 quiet
    initrd /initrd.img
}
menuentry 'Xen' --hotkey=x {
    multiboot2 /boot/xen-4.17-amd64.gz console=com1 com1=115200,8n1 dom0_mem=512M,max:512M
    module2 /vmlinuz root=LABEL=root ro console=hvc0 quiet
    module2 --nounzip /initrd.img
}
";

/// The disk, built if there is none of the same in `directory`. It must not be written to.
///
/// # Errors
/// If it cannot be built; what failed is in the log below `directory`.
pub fn provide(directory: &Path) -> Result<PathBuf> {
    let image: ImageName = "debian:bookworm".parse()?;
    let recipe = Recipe { packages: PACKAGES, ..Recipe::default() };
    let made_of = [&recipe.made_of(image.suite()), FSTAB, GRUB_CFG, &partitions::script()].concat();
    kept::provide(directory, "debian.disk", &made_of, |workplace, file| {
        rootfs::with_tools(workplace, |runner| build(&recipe, image.suite(), workplace, file, runner))
    })
}

fn build(recipe: &Recipe<'_>, suite: &str, workplace: &Path, file: &Path, runner: &Runner<'_>) -> Result<()> {
    let (tree, apt) = rootfs::install(recipe, suite, workplace, runner)?;
    root::configure(&tree, &apt)?;
    fs::create_dir_all(tree.join("boot/grub")).context("making the directory of GRUB's menu")?;
    for (name, content) in [("etc/fstab", FSTAB), ("boot/grub/grub.cfg", GRUB_CFG)] {
        fs::write(tree.join(name), content).with_context(|| format!("writing {name}"))?;
    }

    let disk = File::create(file).and_then(|disk| disk.set_len(partitions::DISK_SIZE));
    disk.with_context(|| format!("making {}", file.display()))?;
    let table = workplace.join("partitions");
    fs::write(&table, partitions::script()).context("writing the list of partitions")?;
    // It reads the list from standard input.
    let divide = ["-c", r#"exec sfdisk --quiet "$0" <"$1""#];
    runner.run(&Program::new("sh").args(divide).arg(file).arg(&table), &mut |_| {})?;
    disk::write_at(&tree, file, partitions::ROOT.start, partitions::ROOT.size, runner, &Told)?;
    grub::install(file, workplace, runner)
}
