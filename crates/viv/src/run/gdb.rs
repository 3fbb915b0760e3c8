//! Where debuggers attach.

use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;

use super::socket::SocketFile;
use crate::cli::GdbArg;
use crate::failure::Failure;
use crate::session::Plan;

/// Makes the guest wait for a debugger, and says how to attach one. What is returned is kept until the machine's end.
pub fn listen(arg: Option<&GdbArg>, plan: &mut Plan) -> Result<Option<SocketFile>, Failure> {
    let Some(arg) = arg else { return Ok(None) };
    let option = format!("--gdb {arg}");
    let failed = |error: io::Error| {
        let failure = Failure::of(&option, &error);
        match error.kind() {
            io::ErrorKind::AddrInUse => failure.remedy("give another port"),
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
            let (listener, file) = SocketFile::listen(&option, path)?;
            (listener.into(), file.path().display().to_string(), Some(file))
        }
    };
    plan.config.gdb = Some(plan.fds.add(listener));
    // Where there is no standard error, nobody waits to be told.
    let _ = writeln!(io::stderr(), "viv: the guest waits for gdb: gdb -ex 'target remote {remote}'");
    Ok(socket)
}
