//! The root file system as a disk.

use std::path::Path;

use crate::files;
use crate::progress::{Progress, Stage};
use crate::tool::{self, Program, Runner};

/// Size of the disk as the guest sees it, in bytes. On the host it takes what is in it.
const SIZE: u64 = 8 << 30;

/// Writes a directory into a new file that holds ext4, and returns its size.
///
/// `mke2fs` reads owners, permissions, devices and extended attributes from the directory itself, so no
/// mount is needed.
///
/// # Errors
/// If it fails, as on a full disk.
pub fn write(
    directory: &Path,
    file: &Path,
    runner: &Runner<'_>,
    progress: &dyn Progress,
) -> Result<u64, tool::Error> {
    // Made here so that it is sparse from the start; mke2fs then need not clear what is a hole.
    let disk = std::fs::File::create(file).map_err(files::at("creating", file))?;
    disk.set_len(SIZE).map_err(files::at("sizing", file))?;
    write_at(directory, file, 0, SIZE, runner, progress)?;
    Ok(SIZE)
}

/// Writes a directory into `size` bytes of a file that is there, from byte `offset` on, as ext4 of that size.
///
/// # Errors
/// If it fails, as on a full disk.
pub fn write_at(
    directory: &Path,
    file: &Path,
    offset: u64,
    size: u64,
    runner: &Runner<'_>,
    progress: &dyn Progress,
) -> Result<(), tool::Error> {
    progress.begin(Stage::Disk);
    // Everything is initialised now, else each guest would do it at its first start, into its own overlay.
    let options = format!("lazy_itable_init=0,lazy_journal_init=0,offset={offset}");
    let make = Program::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-L", "root", "-m", "1", "-E", &options, "-d"])
        .arg(directory)
        .arg(file)
        .arg(format!("{}k", size >> 10));
    runner.run(&make, &mut |_| {})?;
    progress.end(Stage::Disk);
    Ok(())
}
