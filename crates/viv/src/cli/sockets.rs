//! `--vsock` and `--console`: where on the host things lead that the guest has.

use std::fmt;
use std::path::PathBuf;

use viv_vmm::config::{MAX_CID, MIN_CID};

/// `--vsock`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VsockArg {
    /// Where programs of the host connect, and what the names of other sockets begin with.
    pub path: PathBuf,
    /// The guest's address.
    pub cid: u32,
}

impl VsockArg {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (path, cid) = match text.rsplit_once(',') {
            None => (text, MIN_CID),
            Some((path, option)) => {
                let value = option.strip_prefix("cid=").ok_or_else(|| {
                    format!("the option '{option}' is not known; 'cid=' is, behind the path")
                })?;
                let cid = value.parse().ok().filter(|cid| (MIN_CID..=MAX_CID).contains(cid));
                (path, cid.ok_or_else(|| format!("'{value}' is no address; give {MIN_CID} to {MAX_CID}"))?)
            }
        };
        if path.is_empty() {
            return Err("no path is given; give PATH, or PATH,cid=N".to_owned());
        }
        Ok(Self { path: path.into(), cid })
    }
}

/// `--console`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConsoleArg {
    /// A file for what the guest says.
    File(PathBuf),
    /// A Unix socket, to which programs connect.
    Socket(PathBuf),
}

impl ConsoleArg {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some("") => Err("no path is given; give unix:PATH".to_owned()),
            Some(path) => Ok(Self::Socket(path.into())),
            None if text.is_empty() => Err("neither a file nor unix:PATH is given".to_owned()),
            None => Ok(Self::File(text.into())),
        }
    }
}

impl fmt::Display for ConsoleArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Socket(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consoles_are_files_or_sockets() {
        assert_eq!(ConsoleArg::parse("a:b"), Ok(ConsoleArg::File("a:b".into())));
        assert_eq!(ConsoleArg::parse("unix:a"), Ok(ConsoleArg::Socket("a".into())));
        assert!(ConsoleArg::parse("").is_err() && ConsoleArg::parse("unix:").is_err());
    }

    #[test]
    fn sockets_are_at_a_path_and_may_have_an_address() {
        let arg = |path: &str, cid| Ok(VsockArg { path: path.into(), cid });
        assert_eq!(VsockArg::parse("v.sock"), arg("v.sock", 3));
        assert_eq!(VsockArg::parse("a,b,cid=77"), arg("a,b", 77));
        for bad in ["", ",cid=3", "v,cid=2", "v,cid=4294967295", "v,cid=x", "v,sid=3"] {
            assert!(VsockArg::parse(bad).is_err(), "{bad}");
        }
    }
}
