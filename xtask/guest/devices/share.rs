//! A directory of the host's: one large file in order, and many small ones made, read, looked at and removed.
//!
//! What a row needs is there before its clock starts, and not in the guest's memory. On the host itself it is. Memory that
//! rows need they have had before: its host gives it only once, which takes its time.

use std::ffi::c_int;
use std::fs::{self, DirEntry, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::system;

/// `O_DIRECT`
const DIRECT: c_int = 0o40000;
/// What memory for direct access must be a multiple of, at the most.
const ALIGN: usize = 4096;

/// Bytes of the large file, and of them at a time.
const LARGE: usize = 256 << 20;
const BLOCK: usize = 1 << 20;
/// One byte of so many counts: looking at all of them would be most of the work.
const SAMPLE: usize = 4096;

/// Directories of small files, files in each, and bytes in each of those.
const DIRECTORIES: usize = 32;
const FILES: usize = 128;
const SMALL: usize = 2048;

/// Where a guest mounts the directory, how it finds it, and the name of the file system and its driver.
const GUESTS_PLACE: &str = "/mnt";
const TAG: &str = "share0";
const KIND: &str = "virtiofs";

/// A piece of work.
pub struct Row {
    pub name: &'static str,
    needs: Needs,
    work: fn(&Share) -> u64,
}

/// What is there before.
#[derive(Clone, Copy)]
enum Needs {
    LargeFile,
    Copy,
    SmallFiles,
    NoSmallFiles,
}

const fn row(name: &'static str, needs: Needs, work: fn(&Share) -> u64) -> Row {
    Row { name, needs, work }
}

pub const ROWS: &[Row] = &[
    row("share-read", Needs::LargeFile, |share| share.read(0)),
    row("share-read-direct", Needs::LargeFile, |share| share.read(DIRECT)),
    row("share-write", Needs::Copy, |share| write(&share.copy(), LARGE, BLOCK)),
    row("share-make", Needs::NoSmallFiles, Share::make),
    row("share-walk", Needs::SmallFiles, |share| walk(&share.small_files())),
    row("share-read-small", Needs::SmallFiles, |share| read_all(&share.small_files())),
    row("share-remove", Needs::SmallFiles, |share| remove(&share.small_files())),
];

/// What the rows work on.
pub struct Share {
    directory: PathBuf,
    is_guests: bool,
}

impl Share {
    /// The directory that a guest is given, which it mounts by the drivers on its disk.
    pub fn guests() -> Self {
        system::mount_guests_root();
        system::enter(Path::new(system::GUESTS_ROOT));
        // Some kernels have it built in. If it is nowhere, the mount fails.
        let _ = Command::new("/sbin/modprobe").arg(KIND).status();
        system::mount_at(TAG, Path::new(GUESTS_PLACE), KIND, 0);
        Self { directory: GUESTS_PLACE.into(), is_guests: true }
    }

    /// The directory where it is.
    pub fn hosts(directory: &Path) -> Self {
        Self { directory: directory.into(), is_guests: false }
    }

    /// Makes everything ready for the work.
    pub fn prepare(&self, row: &Row) {
        match row.needs {
            Needs::LargeFile => {
                if !self.large_file().exists() {
                    write(&self.large_file(), LARGE, BLOCK);
                }
                self.read(0);
            }
            Needs::Copy => {
                write(&self.copy(), LARGE, BLOCK);
            }
            Needs::SmallFiles | Needs::NoSmallFiles => {
                if !self.small_files().exists() {
                    self.make();
                }
                if let Needs::NoSmallFiles = row.needs {
                    remove(&self.small_files());
                }
            }
        }
        if self.is_guests {
            fs::write("/proc/sys/vm/drop_caches", "3").expect("the kernel forgets what it can read again");
        }
    }

    /// Does the work.
    pub fn work(&self, row: &Row) -> u64 {
        (row.work)(self)
    }

    fn large_file(&self) -> PathBuf {
        self.directory.join("large")
    }

    fn copy(&self) -> PathBuf {
        self.directory.join("copy")
    }

    fn small_files(&self) -> PathBuf {
        self.directory.join("small")
    }

    /// Reads the large file: the sum of the samples in it.
    fn read(&self, flags: c_int) -> u64 {
        let flags = if self.is_guests { flags } else { 0 };
        let file = OpenOptions::new().read(true).custom_flags(flags).open(self.large_file());
        let mut file = file.expect("the large file opens");
        let mut memory = vec![0_u8; BLOCK + ALIGN];
        let start = memory.as_ptr().align_offset(ALIGN);
        let block = &mut memory[start..][..BLOCK];
        let mut sum = 0_u64;
        for _ in 0..LARGE / BLOCK {
            file.read_exact(block).expect("the large file is as long as it was made");
            sum += block.iter().step_by(SAMPLE).map(|&byte| u64::from(byte)).sum::<u64>();
        }
        sum
    }

    /// Makes the small files: how many bytes are in them.
    fn make(&self) -> u64 {
        let mut bytes = 0;
        for directory in 0..DIRECTORIES {
            let directory = self.small_files().join(format!("directory{directory}"));
            fs::create_dir_all(&directory).expect("directories can be made");
            for file in 0..FILES {
                bytes += write(&directory.join(format!("file{file}")), SMALL, SMALL);
            }
        }
        bytes
    }
}

/// Writes a file of so many bytes, new or over what is there, `block` at a time: how many there are.
fn write(path: &Path, bytes: usize, block: usize) -> u64 {
    let opened = OpenOptions::new().write(true).create(true).truncate(false).open(path);
    let mut file = opened.expect("the file can be made");
    let mut data = vec![0xa5_u8; block];
    for number in 0..bytes / block {
        data[0] = number as u8;
        file.write_all(&data).expect("the file can be written");
    }
    bytes as u64
}

/// Looks at everything below a directory: how many bytes are in files.
fn walk(directory: &Path) -> u64 {
    let sizes = list(directory).into_iter().map(|entry| {
        let metadata = entry.metadata().expect("it is there");
        if metadata.is_dir() { walk(&entry.path()) } else { metadata.len() }
    });
    sizes.sum()
}

/// Reads every file below a directory: the sum of all bytes.
fn read_all(directory: &Path) -> u64 {
    let sums = list(directory).into_iter().map(|entry| {
        if entry.file_type().expect("it is there").is_dir() {
            return read_all(&entry.path());
        }
        let data = fs::read(entry.path()).expect("the file can be read");
        data.iter().map(|&byte| u64::from(byte)).sum()
    });
    sums.sum()
}

/// Removes a directory with everything below: how many files there were.
fn remove(directory: &Path) -> u64 {
    let removed = list(directory).into_iter().map(|entry| {
        if entry.file_type().expect("it is there").is_dir() {
            return remove(&entry.path());
        }
        fs::remove_file(entry.path()).map(|()| 1).expect("the file can be removed")
    });
    let removed = removed.sum();
    fs::remove_dir(directory).expect("the directory is empty");
    removed
}

/// What is in a directory.
fn list(directory: &Path) -> Vec<DirEntry> {
    let entries = fs::read_dir(directory).and_then(Iterator::collect);
    entries.expect("the directory can be listed")
}
