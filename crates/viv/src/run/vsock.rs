//! Sockets between the guest and this host.

use viv_vmm::config::VsockConfig;
use viv_vmm::connector;

use super::socket::{SocketFile, check_length};
use crate::cli::VsockArg;
use crate::failure::Failure;
use crate::session::Plan;

/// Gives the machine sockets to this host, if they are asked for. What is returned is kept until the machine's end.
pub fn listen(arg: Option<&VsockArg>, plan: &mut Plan) -> Result<Option<SocketFile>, Failure> {
    let Some(VsockArg { path, cid }) = arg else { return Ok(None) };
    let option = format!("--vsock {}", path.display());
    let (listener, file) = SocketFile::listen(&option, path)?;
    check_length(&option, "with a port behind it the path", &connector::socket_of(file.path(), u32::MAX))?;
    let connector = connector::start(file.path().to_owned()).map_err(|error| Failure::of(&option, &error))?;
    let listener = plan.fds.add(listener);
    let connector = plan.fds.add(connector);
    plan.config.vsock = Some(VsockConfig { cid: *cid, listener, connector });
    Ok(Some(file))
}
