//! Unix sockets at which a machine waits for programs of this host.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// The longest path of a Unix socket, in bytes: the field less its final zero (unix(7)).
const LONGEST: usize = 107;

/// A socket in the file system. Dropped, it is no more.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl SocketFile {
    /// Listens at `path` for what `option` asks for.
    pub fn listen(option: &str, path: &Path) -> Result<(UnixListener, Self), Failure> {
        let failed = |error: io::Error| {
            let failure = Failure::of(option, &error);
            match error.kind() {
                io::ErrorKind::AddrInUse => failure.remedy("remove it, or give another path"),
                _ => failure,
            }
        };
        let path = std::path::absolute(path).map_err(failed)?;
        check_length(option, "the path", &path)?;
        let listener = UnixListener::bind(&path).map_err(failed)?;
        Ok((listener, Self(path)))
    }

    /// Where it is, from the root on.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

/// Refuses a path that is too long for a socket.
pub fn check_length(option: &str, what: &str, path: &Path) -> Result<(), Failure> {
    let length = path.as_os_str().len();
    if length <= LONGEST {
        return Ok(());
    }
    let why = format!("{what} has {length} bytes, and a socket's at most {LONGEST}");
    Err(Failure::new(option, why).remedy("give a shorter one"))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // One that is gone already is what is wanted.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_there_as_long_as_it_is_wanted_and_takes_nobodys_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let (_listener, file) = SocketFile::listen("--gdb x", &path).unwrap();
        assert!(file.path().exists());
        let second = SocketFile::listen("--gdb x", &path).unwrap_err().to_string();
        assert!(second.contains("remove it, or give another path"), "{second}");
        assert!(path.exists());
        drop(file);
        assert!(!path.exists());
        let long = directory.path().join("x".repeat(LONGEST));
        let refused = SocketFile::listen("--gdb x", &long).unwrap_err().to_string();
        assert!(refused.contains("at most 107"), "{refused}");
    }
}
