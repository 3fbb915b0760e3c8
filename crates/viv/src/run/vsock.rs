//! Sockets between the guest and this host.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use viv_vmm::config::VsockConfig;
use viv_vmm::connector;

use crate::cli::VsockArg;
use crate::failure::Failure;
use crate::session::Plan;

/// The longest path of a Unix socket, in bytes: the field less its final zero (unix(7)).
const LONGEST: usize = 107;

/// The socket to which programs of the host connect. Dropped, it is no more.
#[derive(Debug)]
pub struct Listening(PathBuf);

/// Gives the machine sockets to this host, if they are asked for.
pub fn listen(arg: Option<&VsockArg>, plan: &mut Plan) -> Result<Option<Listening>, Failure> {
    let Some(VsockArg { path, cid }) = arg else { return Ok(None) };
    let option = format!("--vsock {}", path.display());
    let failed = |error: io::Error| {
        let failure = Failure::of(&option, &error);
        match error.kind() {
            io::ErrorKind::AddrInUse => failure.remedy("remove it, or give another path"),
            _ => failure,
        }
    };
    let path = std::path::absolute(path).map_err(failed)?;
    let longest = connector::socket_of(&path, u32::MAX).as_os_str().len();
    if longest > LONGEST {
        let why =
            format!("with a port behind it the path has {longest} bytes, and a socket's at most {LONGEST}");
        return Err(Failure::new(option, why).remedy("give a shorter one"));
    }
    let listener = UnixListener::bind(&path).map_err(failed)?;
    // From here on it is removed again.
    let listening = Listening(path.clone());
    let connector = connector::start(path).map_err(failed)?;
    let listener = plan.fds.add(listener);
    let connector = plan.fds.add(connector);
    plan.config.vsock = Some(VsockConfig { cid: *cid, listener, connector });
    Ok(Some(listening))
}

impl Drop for Listening {
    fn drop(&mut self) {
        // One that is gone already is what is wanted.
        let _ = std::fs::remove_file(&self.0);
    }
}
