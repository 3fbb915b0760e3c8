//! The process behind a shared directory.

use std::os::fd::OwnedFd;
use std::process::ExitCode;

use viv_share::process::{self, Share};
use viv_vmm::process::Confinement;

use crate::cli::ShareServerArgs;

/// Serves a directory to the VM process at the other end of `socket`.
pub fn main(socket: OwnedFd, args: ShareServerArgs) -> ExitCode {
    let ShareServerArgs { directory, read_only, cache, jail } = args;
    let jailed = Confinement::from(jail) == Confinement::Jail;
    process::main(socket, &Share { directory, read_only, cache }, jailed)
}
