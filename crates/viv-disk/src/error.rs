//! What can go wrong with a disk.

use std::path::{Path, PathBuf};

/// Why a disk cannot be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The host failed a request.
    #[error("cannot {action} disk {}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the host answered.
        #[source]
        source: std::io::Error,
    },
    /// Someone else has it open in a way that excludes us.
    #[error("{} is in use: {}", path.display(), if *write {
        "it cannot be opened for writing while others have it open"
    } else {
        "another process has it open for writing"
    })]
    InUse {
        /// The file.
        path: PathBuf,
        /// Whether it was to be opened for writing.
        write: bool,
    },
    /// It is neither a regular file nor a block device.
    #[error("{} is no disk: it is neither a regular file nor a block device", path.display())]
    NotADisk {
        /// The file.
        path: PathBuf,
    },
    /// It is smaller than one sector.
    #[error("disk {} holds {length} bytes, less than one sector", path.display())]
    TooSmall {
        /// The file.
        path: PathBuf,
        /// Its length.
        length: u64,
    },
    /// Direct access is in whole blocks, and it ends within one.
    #[error(
        "disk {} holds {length} bytes, which for cache=none must be a multiple of {block}: use cache=writeback",
        path.display()
    )]
    NoDirectAccess {
        /// The file.
        path: PathBuf,
        /// Its length.
        length: u64,
        /// The size of a block.
        block: u64,
    },
    /// Its requests cannot go through io_uring.
    #[error("disk {} cannot be used with aio=io_uring: {reason}; use aio=threads", path.display())]
    NoIoUring {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The host gives no threads for a disk's requests.
    #[error("cannot start the threads of a disk")]
    NoThreads {
        /// What the host answered.
        #[source]
        source: std::io::Error,
    },
    /// Something is for disks whose bytes are those of a file.
    #[error("{option} is for raw disks that are written in place: use {instead}")]
    NotRaw {
        /// What was asked for.
        option: &'static str,
        /// What would do.
        instead: &'static str,
    },
    /// A request's data lies outside guest memory.
    #[error("{length} bytes at {address:#x} are no guest memory")]
    NotInMemory {
        /// Where they are to be.
        address: u64,
        /// How many.
        length: u64,
    },
    /// A range lies outside the disk.
    #[error("{length} bytes at offset {offset} lie outside the disk of {size} bytes")]
    OutOfRange {
        /// Where the range begins.
        offset: u64,
        /// Its length.
        length: u64,
        /// The disk's size.
        size: u64,
    },
    /// A change was asked of a disk that can only be read.
    #[error("disk {} can only be read", path.display())]
    ReadOnly {
        /// The file.
        path: PathBuf,
    },
    /// An image is damaged, or of a kind that cannot be used.
    #[error("image {} cannot be used: {reason}", path.display())]
    BadImage {
        /// The image's file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An image cannot be made or changed as it is asked for.
    #[error("cannot make image {} so: {reason}", path.display())]
    CannotCreate {
        /// The image's file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// A file's format is not stated and cannot be told safely.
    #[error("the format of {} is not certain: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Why it is not, and what to do.
        reason: String,
    },
    /// A backing file cannot be used.
    #[error("the backing file of {} cannot be used", path.display())]
    Backing {
        /// The image that names it.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<DiskError>,
    },
    /// The base is not the one the overlay was made for, or was changed since.
    #[error("disk {} changed since overlay {} was made on it: {what}", base.display(), path.display())]
    BaseChanged {
        /// The overlay's file.
        path: PathBuf,
        /// The base.
        base: PathBuf,
        /// What differs.
        what: String,
    },
}

impl DiskError {
    /// Turns the host's answer into an error, for `map_err`.
    pub(crate) fn io<E: Into<std::io::Error>>(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> Self + use<E> {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source: source.into() }
    }
}
