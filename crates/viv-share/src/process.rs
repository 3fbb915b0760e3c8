//! The process that serves one directory.
//!
//! Its standard input is the socket of the vhost-user protocol, whose other end the VM process has. It ends when that is
//! closed. Like the VM process it splits itself: one part goes to jail, the other waits, and says how the first died.

use std::fmt;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{getegid, geteuid};
use signal_hook::consts::SIGXFSZ;
use viv_jail::{Fate, Forked, Jail};

use crate::backend::Backend;
use crate::links::Links;
use crate::server::FileServer;
use crate::settings::{Cache, Owners, Settings};

/// What is shared, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The directory on the host.
    pub directory: PathBuf,
    /// Whether the guest may change nothing.
    pub read_only: bool,
    /// What the guest may keep in its memory.
    pub cache: Cache,
}

/// Why a directory is not served.
#[derive(Debug, thiserror::Error)]
enum ProcessError {
    #[error("cannot open {}", .0.display())]
    Open(PathBuf, #[source] io::Error),
    #[error("cannot start")]
    Start(#[from] io::Error),
    #[error(transparent)]
    Jail(#[from] viv_jail::JailError),
    #[error("the VM process does not speak the protocol")]
    Protocol(#[source] vhost::vhost_user::Error),
}

/// Serves a directory to the front end at the other end of `socket` until that is closed; in a jail, if `jailed`.
///
/// To be called once, on the main thread of a process that does nothing else and has no other thread.
#[must_use]
pub fn main(socket: OwnedFd, share: &Share, jailed: bool) -> ExitCode {
    // It is for people only.
    let _ = rustix::thread::set_name(c"viv-share");
    match run(socket, share, jailed) {
        Ok(code) => code,
        Err(error) => {
            complain(&share.directory, &error);
            ExitCode::FAILURE
        }
    }
}

fn run(socket: OwnedFd, share: &Share, jailed: bool) -> Result<ExitCode, ProcessError> {
    // A file that becomes too large is an error of the guest's, not the server's end.
    signal_hook::flag::register(SIGXFSZ, Arc::default())?;
    viv_jail::close_others(&[socket.as_fd()]);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(CWD, &share.directory, flags, Mode::empty())
        .map_err(|errno| ProcessError::Open(share.directory.clone(), errno.into()))?;
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    if !jailed {
        let links = Links::usual().map_err(io::Error::from)?;
        let server = serve_from(directory, links, share, Owners::of(user, group, false))?;
        return finish(Backend::start(server)?, socket, None);
    }
    match viv_jail::fork()? {
        Forked::Supervisor(supervisor) => match supervisor.wait()? {
            Fate::Exited(code) => Ok(ExitCode::from(code)),
            Fate::Died(why) => {
                complain(&share.directory, &Died(why));
                Ok(ExitCode::FAILURE)
            }
        },
        Forked::Inmate(inmate) => {
            let (jail, shared) = inmate.enter_directory(directory.as_fd(), share.read_only)?;
            // What leads out of the jail.
            drop(directory);
            let links = Links::here(shared.links);
            let server = serve_from(shared.root, links, share, Owners::of(user, group, shared.alone))?;
            finish(Backend::start(server)?, socket, Some(jail))
        }
    }
}

fn serve_from(
    root: OwnedFd,
    links: Links,
    share: &Share,
    owners: Owners,
) -> Result<FileServer, ProcessError> {
    // Files have the modes that the guest says.
    rustix::process::umask(Mode::empty());
    let settings = Settings::of_this_process(share.read_only, share.cache, owners);
    Ok(FileServer::new(root, links, settings).map_err(io::Error::from)?)
}

/// Serves to the end.
fn finish(backend: Backend, socket: OwnedFd, jail: Option<Jail>) -> Result<ExitCode, ProcessError> {
    for what in jail.map(Jail::lock).transpose()?.iter().flatten() {
        tracing::debug!(what, "the jail of a shared directory lacks");
    }
    backend.serve(UnixStream::from(socket)).map_err(ProcessError::Protocol)?;
    Ok(ExitCode::SUCCESS)
}

/// How the process in the jail died.
#[derive(Debug, thiserror::Error)]
#[error("it died: {0}")]
struct Died(String);

/// Says what is wrong in a line. The terminal may be raw, where lines need help to begin at the left.
fn complain(directory: &Path, error: &dyn std::error::Error) {
    // Where there is no standard error, nobody wants to know.
    let _ = write!(io::stderr(), "viv: the server of {}: {}\r\n", directory.display(), Line(error));
}

/// An error with its causes in one line.
struct Line<'a>(&'a dyn std::error::Error);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            write!(f, ": {cause}")?;
            next = cause.source();
        }
        Ok(())
    }
}
