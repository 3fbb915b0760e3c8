//! GRUB on a disk, for BIOS and for UEFI, with neither a mount nor a device.
//!
//! Both have all their modules in them and find the root file system by its label; what they do then is in its
//! `/boot/grub/grub.cfg`. For BIOS there are two parts: the boot block, which loads the first block of the core, which
//! loads the rest of it. Each has the place of the next in it (GRUB's `grub/i386/pc/boot.h`).

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use viv_image::tool::{Program, Runner};

use crate::partitions::{BIOS_BOOT, BLOCK, EFI_SYSTEM};

/// The boot block, from Debian's package `grub-pc-bin`.
const BOOT_BLOCK: &str = "/usr/lib/grub/i386-pc/boot.img";
/// Bytes of the boot block that are GRUB's; the partition table's are behind them.
const BOOT_CODE: usize = 440;
/// Where the boot block has the core's first block, as a u64 (GRUB_BOOT_MACHINE_KERNEL_SECTOR).
const CORE_BLOCK: usize = 0x5c;
/// Where it has a jump that mistrusts the drive's number, which two NOPs replace on a hard disk
/// (GRUB_BOOT_MACHINE_DRIVE_CHECK).
const DRIVE_CHECK: usize = 0x66;
const NOPS: [u8; 2] = [0x90, 0x90];
/// Where the core's first block has the first of the other blocks, as a u64: in the last entry of a list of 12 bytes each
/// that ends with it.
const REST_OF_CORE: usize = 512 - 12;

/// Commands and file systems that the firmware's kind does not matter to.
const MODULES: [&str; 20] = [
    "boot",
    "configfile",
    "echo",
    "ext2",
    "fat",
    "gzio",
    "halt",
    "linux",
    "ls",
    "minicmd",
    "multiboot",
    "multiboot2",
    "normal",
    "part_gpt",
    "reboot",
    "search",
    "search_label",
    "serial",
    "terminal",
    "test",
];
/// Disks, by INT 13h.
const BIOS_MODULES: [&str; 1] = ["biosdisk"];

/// How a GRUB with no file of its own finds its configuration.
const FIND_ROOT: &str = "search --label --set=root root\nset prefix=($root)/boot/grub\n";

/// Where UEFI looks for what a disk starts with (UEFI specification, 3.5.1.1).
const REMOVABLE_PATH: [&str; 3] = ["::/EFI", "::/EFI/BOOT", "::/EFI/BOOT/BOOTX64.EFI"];

/// Puts GRUB on the disk in `file`, which has its partitions already.
///
/// # Errors
/// If a tool fails, or the core is too large for its partition.
pub fn install(file: &Path, workplace: &Path, runner: &Runner<'_>) -> Result<()> {
    let find_root = workplace.join("find-root.cfg");
    fs::write(&find_root, FIND_ROOT).context("writing GRUB's first commands")?;
    let image = |format: &str, name: &str, modules: &[&str]| {
        let image = workplace.join(name);
        let make = Program::new("grub-mkimage")
            .args(["-O", format, "-p", "/boot/grub", "-c"])
            .arg(&find_root)
            .arg("-o")
            .arg(&image)
            .args(MODULES)
            .args(modules.iter().copied());
        runner.run(&make, &mut |_| {}).map(|()| image)
    };
    let core = image("i386-pc", "core.img", &BIOS_MODULES)?;
    for_bios(file, &core)?;
    let program = image("x86_64-efi", "BOOTX64.EFI", &[])?;
    for_uefi(file, &program, runner)
}

/// The boot block and the core in its partition.
fn for_bios(file: &Path, core: &Path) -> Result<()> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("reading {}", path.display()));
    let block = boot_block(read(Path::new(BOOT_BLOCK))?, BIOS_BOOT.start / BLOCK)?;
    let core = placed_core(read(core)?, BIOS_BOOT.start / BLOCK)?;
    ensure!(core.len() as u64 <= BIOS_BOOT.size, "GRUB's core has {} bytes, too many", core.len());
    let disk = File::options().write(true).open(file).context("opening the disk")?;
    disk.write_all_at(&block, 0).context("writing GRUB's boot block")?;
    disk.write_all_at(&core, BIOS_BOOT.start).context("writing GRUB's core")
}

/// What goes before the partition table: a boot block that loads the core from this logical block.
fn boot_block(mut block: Vec<u8>, core: u64) -> Result<Vec<u8>> {
    ensure!(block.len() == 512, "GRUB's boot block has {} bytes, not 512", block.len());
    block[CORE_BLOCK..][..8].copy_from_slice(&core.to_le_bytes());
    block[DRIVE_CHECK..][..2].copy_from_slice(&NOPS);
    block.truncate(BOOT_CODE);
    Ok(block)
}

/// The core for this logical block, with all of it in one piece.
fn placed_core(mut core: Vec<u8>, at: u64) -> Result<Vec<u8>> {
    ensure!(core.len() > 512, "GRUB's core has {} bytes, too few", core.len());
    core[REST_OF_CORE..][..8].copy_from_slice(&(at + 1).to_le_bytes());
    Ok(core)
}

/// A FAT file system with the one program.
fn for_uefi(file: &Path, program: &Path, runner: &Runner<'_>) -> Result<()> {
    let partition = format!("{}@@{}", file.display(), EFI_SYSTEM.start);
    let blocks = (EFI_SYSTEM.size / BLOCK).to_string();
    let mtool = |name: &str| Program::new(name).args(["-i", &partition]);
    // Heads and sectors are BIOS's; the format has to have some.
    let format = mtool("mformat").args(["-T", &blocks, "-h", "64", "-s", "32", "-v", "EFI", "::"]);
    runner.run(&format, &mut |_| {})?;
    let [top, directory, target] = REMOVABLE_PATH;
    runner.run(&mtool("mmd").args([top, directory]), &mut |_| {})?;
    runner.run(&mtool("mcopy").arg(program).arg(target), &mut |_| {})?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_has_the_place_of_the_next() {
        let block = boot_block(vec![0xaa; 512], 0x800).unwrap();
        assert_eq!(block.len(), 440);
        assert_eq!(block[0x5b..0x68], [0xaa, 0, 8, 0, 0, 0, 0, 0, 0, 0xaa, 0xaa, 0x90, 0x90]);
        let core = placed_core(vec![0xaa; 1024], 0x800).unwrap();
        assert_eq!(core[0x1f3..0x1fd], [0xaa, 1, 8, 0, 0, 0, 0, 0, 0, 0xaa]);
    }

    #[test]
    fn parts_of_other_sizes_are_refused() {
        assert!(boot_block(vec![0; 511], 1).is_err() && placed_core(vec![0; 512], 1).is_err());
    }
}
