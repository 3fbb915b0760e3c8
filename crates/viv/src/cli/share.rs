//! `--share`.

use std::fmt;
use std::path::{Path, PathBuf};

use viv_share::Cache;

/// One `--share`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareArg {
    /// What the guest sees.
    pub source: SharedArg,
    /// Where the guest sees it.
    pub directory: String,
    /// Whether nothing in it can be changed there.
    pub readonly: bool,
}

/// What the guest sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SharedArg {
    /// A directory of the host.
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the guest may keep of it in its memory.
        cache: Cache,
    },
    /// What the process serves that listens at this socket.
    VhostUser(PathBuf),
}

impl ShareArg {
    /// Reads `HOSTDIR:GUESTDIR[,ro][,cache=…]` or `vhost-user=SOCKET:GUESTDIR[,ro]`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("'{text}' names no share; give HOSTDIR:GUESTDIR or vhost-user=SOCKET:GUESTDIR");
        let (source, rest) = text.rsplit_once(':').ok_or_else(wrong)?;
        let mut parts = rest.split(',');
        let directory = parts.next().unwrap_or_default();
        let (mut readonly, mut cache) = (false, None);
        for option in parts {
            match option.split_once('=') {
                None if option == "ro" => readonly = true,
                Some(("cache", how)) => cache = Some(how.parse()?),
                _ => return Err(format!("the option '{option}' is not known; 'ro' and 'cache' are")),
            }
        }
        let source = match (source.strip_prefix("vhost-user="), cache) {
            (Some(""), _) => return Err(wrong()),
            (Some(_), Some(_)) => {
                return Err("what the guest keeps is the other process's to say; leave out cache".to_owned());
            }
            (Some(socket), None) => SharedArg::VhostUser(socket.into()),
            (None, _) if source.is_empty() => return Err(wrong()),
            (None, cache) => SharedArg::Directory { path: source.into(), cache: cache.unwrap_or_default() },
        };
        if !directory.starts_with('/') || directory.contains('\0') {
            return Err(format!("'{directory}' is no place in the guest; give a path that begins with /"));
        }
        // Without what stands for nothing, so that places can be compared.
        let place: PathBuf = Path::new(directory).components().collect();
        if place == Path::new("/") {
            return Err("the guest's root is its own; give a place below it".to_owned());
        }
        Ok(Self { source, directory: place.to_string_lossy().into_owned(), readonly })
    }
}

impl fmt::Display for SharedArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory { path, .. } => write!(f, "{}", path.display()),
            Self::VhostUser(socket) => write!(f, "vhost-user={}", socket.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_directory_or_a_socket_and_a_place() {
        let share = |source, directory: &str, readonly| {
            Ok(ShareArg { source, directory: directory.into(), readonly })
        };
        let socket = |path: &str| SharedArg::VhostUser(path.into());
        let directory = |path: &str, cache| SharedArg::Directory { path: path.into(), cache };
        assert_eq!(ShareArg::parse("vhost-user=/run/fs:/mnt"), share(socket("/run/fs"), "/mnt", false));
        assert_eq!(ShareArg::parse("vhost-user=a:b,c:/m,ro"), share(socket("a:b,c"), "/m", true));
        assert_eq!(ShareArg::parse(".:/mnt"), share(directory(".", Cache::Auto), "/mnt", false));
        assert_eq!(
            ShareArg::parse("a:b,ro:/m,cache=always,ro"),
            share(directory("a:b,ro", Cache::Always), "/m", true)
        );
        for bad in [
            "",
            "/srv",
            ":/mnt",
            "/srv:",
            "/srv:mnt",
            "/srv:/mnt,rw",
            "/srv:/mnt,cache=some",
            "vhost-user=",
            "vhost-user=a",
            "vhost-user=:/mnt",
            "vhost-user=a:mnt",
            "vhost-user=a:/mnt,cache=none",
        ] {
            assert!(ShareArg::parse(bad).is_err(), "{bad}");
        }
    }
}
