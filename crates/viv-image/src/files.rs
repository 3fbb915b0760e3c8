//! File operations whose errors say what was being done, and to which file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {}", path.display())]
pub struct Error {
    /// What was being done, as in "creating".
    pub doing: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// Why it failed.
    pub source: io::Error,
}

/// Adds what was being done to an I/O error; for `map_err`.
pub(crate) fn at<E: Into<io::Error>>(doing: &'static str, path: &Path) -> impl FnOnce(E) -> Error {
    let path = path.to_owned();
    move |source| Error { doing, path, source: source.into() }
}

/// Creates a directory and the ones above it.
pub(crate) fn create_dir_all(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(at("creating", path))
}

/// Writes a whole file.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    fs::write(path, bytes).map_err(at("writing", path))
}

/// Reads a whole file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(at("reading", path))
}

/// Reads a whole text file.
pub(crate) fn read_to_string(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(at("reading", path))
}

/// Renames within one file system.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(at("renaming", from))
}

/// The entries of a directory, sorted by name; none if it does not exist.
pub(crate) fn entries(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let listed = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.map_err(at("listing", path))?,
    };
    let mut entries = listed
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(at("listing", path))?;
    entries.sort();
    Ok(entries)
}

/// Removes a directory with all its content, if it exists; refuses if something is mounted inside, since
/// that would be emptied too.
///
/// # Errors
/// If it refuses, or something cannot be removed.
pub fn remove_tree(path: &Path) -> Result<(), Error> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if let Some(mount) = mount_below(&mounts, &path) {
        let source =
            io::Error::new(io::ErrorKind::ResourceBusy, "something is mounted there; unmount it first");
        return Err(Error { doing: "removing", path: mount, source });
    }
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(at("removing", &path)),
    }
}

/// The first mount point at or below a directory (proc(5), `mountinfo`, field 5).
fn mount_below(mountinfo: &str, directory: &Path) -> Option<PathBuf> {
    mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(point.replace("\\040", " ")))
        .find(|point| point.starts_with(directory))
}

/// Bytes that a file or tree occupies on disk.
pub(crate) fn stored_bytes(path: &Path) -> Result<u64, Error> {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::symlink_metadata(path).map_err(at("inspecting", path))?;
    let mut bytes = metadata.blocks().saturating_mul(512);
    if metadata.is_dir() {
        for entry in entries(path)? {
            bytes = bytes.saturating_add(stored_bytes(&entry)?);
        }
    }
    Ok(bytes)
}

/// Bytes that an unprivileged writer can still put into the file system that holds `path`.
pub(crate) fn free_bytes(path: &Path) -> Result<u64, Error> {
    let stat = rustix::fs::statvfs(path).map_err(at("inspecting the file system of", path))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_inside_are_seen_and_siblings_are_not() {
        let info = "22 1 8:1 / / rw - ext4 /dev/a rw\n23 22 0:5 / /a/b\\040c/proc rw - proc proc rw\n";
        assert_eq!(mount_below(info, Path::new("/a/b c")), Some("/a/b c/proc".into()));
        assert_eq!(mount_below(info, Path::new("/a/b")), None);
    }

    #[test]
    fn removing_what_is_not_there_is_done_already() {
        let home = tempfile::tempdir().unwrap();
        remove_tree(&home.path().join("nothing")).unwrap();
    }
}
