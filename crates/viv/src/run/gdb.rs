//! Where debuggers attach.

use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use crate::cli::GdbArg;
use crate::failure::Failure;
use crate::session::Plan;

/// A place where debuggers attach. Dropped, it leaves no socket behind.
#[derive(Debug)]
pub struct Attachment {
    socket: Option<PathBuf>,
}

/// Makes the guest wait for a debugger, and says how to attach one.
pub fn listen(arg: Option<&GdbArg>, plan: &mut Plan) -> Result<Option<Attachment>, Failure> {
    let Some(arg) = arg else { return Ok(None) };
    let failed = |error: io::Error| {
        let failure = Failure::of(format!("--gdb {arg}"), &error);
        match (arg, error.kind()) {
            (GdbArg::Port(_), io::ErrorKind::AddrInUse) => failure.remedy("give another port"),
            (GdbArg::Path(_), io::ErrorKind::AddrInUse) => failure.remedy("remove it, or give another path"),
            _ => failure,
        }
    };
    let (listener, remote, socket): (OwnedFd, _, _) = match arg {
        GdbArg::Port(port) => {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).map_err(failed)?;
            let port = listener.local_addr().map_err(failed)?.port();
            (listener.into(), format!("localhost:{port}"), None)
        }
        GdbArg::Path(path) => {
            let path = std::path::absolute(path).map_err(failed)?;
            let listener = UnixListener::bind(&path).map_err(failed)?;
            (listener.into(), path.display().to_string(), Some(path))
        }
    };
    plan.config.gdb = Some(plan.fds.add(listener));
    // Where there is no standard error, nobody waits to be told.
    let _ = writeln!(io::stderr(), "viv: the guest waits for gdb: gdb -ex 'target remote {remote}'");
    Ok(Some(Attachment { socket }))
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if let Some(socket) = &self.socket {
            // One that is gone already is what is wanted.
            let _ = std::fs::remove_file(socket);
        }
    }
}
