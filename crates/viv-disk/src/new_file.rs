//! A file that appears complete, or not at all.

use std::path::{Path, PathBuf};

use tempfile::TempPath;

use crate::DiskError;
use crate::file::DiskFile;

/// A new file without its name yet. Dropping it leaves nothing.
#[derive(Debug)]
pub(crate) struct NewFile {
    file: DiskFile,
    temporary: TempPath,
    path: PathBuf,
}

impl NewFile {
    /// Begins a file that will be at `path`, where nothing may be.
    ///
    /// # Errors
    /// When something is there already, or the file cannot be made.
    pub(crate) fn create(path: &Path) -> Result<Self, DiskError> {
        if path.symlink_metadata().is_ok() {
            return Err(DiskError::io("make", path)(std::io::Error::from(std::io::ErrorKind::AlreadyExists)));
        }
        let file = tempfile::NamedTempFile::new_in(directory(path)).map_err(DiskError::io("make", path))?;
        let (file, temporary) = file.into_parts();
        Ok(Self { file: DiskFile::from_file(file, path, true)?, temporary, path: path.to_owned() })
    }

    pub(crate) fn file(&self) -> &DiskFile {
        &self.file
    }

    /// Makes it durable and gives it its name.
    ///
    /// # Errors
    /// When something has appeared there, or the host fails.
    pub(crate) fn finish(self) -> Result<(), DiskError> {
        let Self { file, temporary, path } = self;
        file.sync()?;
        temporary.persist_noclobber(&path).map_err(|error| DiskError::io("name", &path)(error.error))?;
        let synced = std::fs::File::open(directory(&path)).and_then(|directory| directory.sync_all());
        synced.map_err(DiskError::io("make durable the name of", &path))
    }
}

/// The directory that a file is in.
fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
