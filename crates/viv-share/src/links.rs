//! Ways from a descriptor that only names a file to the file itself.
//!
//! A file that is held by `O_PATH` is opened, changed and linked by its link in `/proc/self/fd`, which leads to the file
//! whatever its names are by now.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::path::DecInt;

/// Where the links are.
const DIRECTORY: &str = "/proc/self/fd";

/// The directory of the process's links.
#[derive(Debug)]
pub struct Links {
    directory: OwnedFd,
    /// Whether it is the working directory too.
    here: bool,
}

impl Links {
    /// The directory where it usually is.
    ///
    /// # Errors
    /// When there is none.
    pub fn usual() -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { directory: rustix::fs::openat(CWD, DIRECTORY, flags, Mode::empty())?, here: false })
    }

    /// This directory, which is the working directory: some calls take nothing but a path.
    #[must_use]
    pub fn here(directory: OwnedFd) -> Self {
        Self { directory, here: true }
    }

    /// The directory.
    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// The file's name in the directory.
    pub(crate) fn name(file: impl AsFd) -> DecInt {
        DecInt::from_fd(file)
    }

    /// The file's path.
    pub(crate) fn path(&self, file: impl AsFd) -> String {
        let number = file.as_fd().as_raw_fd();
        if self.here { number.to_string() } else { format!("{DIRECTORY}/{number}") }
    }

    /// Opens the file.
    pub(crate) fn open(&self, file: impl AsFd, flags: OFlags) -> Result<OwnedFd, Errno> {
        rustix::fs::openat(&self.directory, Self::name(file), flags | OFlags::CLOEXEC, Mode::empty())
    }
}
