//! `--share`.

use std::path::PathBuf;

/// One `--share`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareArg {
    /// Where the process listens that serves it.
    pub socket: PathBuf,
    /// Where the guest sees it.
    pub directory: String,
    /// Whether nothing in it can be changed there.
    pub readonly: bool,
}

impl ShareArg {
    /// Reads `vhost-user=SOCKET:GUESTDIR[,ro]`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' names no share; give vhost-user=SOCKET:GUESTDIR");
        let (rest, readonly) = text.strip_suffix(",ro").map_or((text, false), |rest| (rest, true));
        let (socket, directory) =
            rest.strip_prefix("vhost-user=").and_then(|rest| rest.rsplit_once(':')).ok_or_else(wrong)?;
        if socket.is_empty() {
            return Err(wrong());
        }
        if !directory.starts_with('/') || directory.contains('\0') {
            return Err(format!("'{directory}' is no place in the guest; give a path that begins with /"));
        }
        Ok(Self { socket: socket.into(), directory: directory.to_owned(), readonly })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_socket_and_a_directory() {
        let share = |socket: &str, directory: &str, readonly| {
            Ok(ShareArg { socket: socket.into(), directory: directory.into(), readonly })
        };
        assert_eq!(ShareArg::parse("vhost-user=/run/fs:/mnt"), share("/run/fs", "/mnt", false));
        assert_eq!(ShareArg::parse("vhost-user=a:b,c:/m,ro"), share("a:b,c", "/m", true));
        for bad in ["", "vhost-user=", "vhost-user=a", "vhost-user=:/mnt", "vhost-user=a:mnt", "a:/mnt"] {
            assert!(ShareArg::parse(bad).is_err(), "{bad}");
        }
    }
}
