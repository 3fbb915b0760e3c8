//! Locks between processes (flock(2)). The kernel lets go of them when their holder dies, however it dies.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::files;
use crate::progress::{Progress, Stage};

/// How often a waiting process looks again. Waiting in the kernel could not be called off.
const INTERVAL: Duration = Duration::from_millis(100);

/// Why a lock was not had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The lock file could not be used.
    #[error(transparent)]
    File(#[from] files::Error),
    /// The user called it off.
    #[error("interrupted while waiting for another build")]
    Interrupted,
}

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Takes a lock if nobody has it in a way that excludes it.
pub(crate) fn attempt(path: &Path, operation: FlockOperation) -> Result<Option<Lock>, files::Error> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(files::at("opening lock", path))?;
    attempt_file(file, path, operation)
}

/// As [`attempt`], on a file that is open already.
pub(crate) fn attempt_file(
    file: File,
    path: &Path,
    operation: FlockOperation,
) -> Result<Option<Lock>, files::Error> {
    match flock(&file, operation) {
        Ok(()) => Ok(Some(Lock { _file: file })),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(files::at("locking", path)(errno)),
    }
}

/// Takes the exclusive lock, waiting for it and saying so.
pub(crate) fn exclusive(path: &Path, progress: &dyn Progress) -> Result<Lock, Error> {
    if let Some(lock) = attempt(path, FlockOperation::NonBlockingLockExclusive)? {
        return Ok(lock);
    }
    progress.begin(Stage::Waiting);
    loop {
        if progress.cancelled() {
            return Err(Error::Interrupted);
        }
        thread::sleep(INTERVAL);
        if let Some(lock) = attempt(path, FlockOperation::NonBlockingLockExclusive)? {
            progress.end(Stage::Waiting);
            return Ok(lock);
        }
    }
}
