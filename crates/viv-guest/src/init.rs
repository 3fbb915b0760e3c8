//! The order of things.

use viv_guest_proto::GuestMessage;

use crate::link::Link;
use crate::{boot, modules, network, power, report, supervise};

/// Why the guest could not get to the point of running a program.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Boot(#[from] boot::Error),
    #[error(transparent)]
    Link(#[from] crate::link::Error),
}

/// Is the first process of the machine until the machine is off.
pub(crate) fn run() -> ! {
    // Held to the very end: a port that is closed may lose what the host has not read yet.
    let mut prepared = prepare();
    match &mut prepared {
        Ok(link) => supervise::run(link),
        Err(error) => report::problem(&report::chain(error)),
    }
    power::down()
}

/// Brings the system up and the host into the picture.
fn prepare() -> Result<Link, Error> {
    boot::mount_kernel_file_systems()?;
    modules::load();
    let mut link = Link::open()?;
    if let Err(error) = boot::enter_root() {
        // The host learns of it here; the console from the caller.
        link.control.tell(&GuestMessage::Failed { message: report::chain(&error) });
        return Err(error.into());
    }
    if let Err(error) = network::start_loopback() {
        report::problem(&format!("bringing up the loopback interface: {error}"));
    }
    Ok(link)
}
