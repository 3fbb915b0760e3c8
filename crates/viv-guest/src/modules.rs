//! Kernel modules from the initial RAM disk.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use rustix::io::Errno;

use crate::report;

/// Where the initial RAM disk keeps them.
pub(crate) const DIRECTORY: &str = "/modules";
/// File in [`DIRECTORY`] that lists module files, one a line, each after the ones it depends on.
const ORDER: &str = "order";

/// Loads the modules of the initial RAM disk, in the order its builder wrote down.
///
/// A module that cannot be loaded is reported and passed over: whether it was needed shows when a device is
/// missed, and some (an accelerated checksum) serve only machines that have the instructions.
pub(crate) fn load() {
    let Ok(order) = fs::read_to_string(Path::new(DIRECTORY).join(ORDER)) else {
        // A kernel with all drivers built in needs no modules.
        return;
    };
    for name in order.lines().filter(|name| !name.is_empty()) {
        match load_one(name) {
            // Loaded already, or meant for hardware that is not there.
            Ok(()) | Err(Errno::EXIST | Errno::NODEV) => {}
            Err(errno) => report::problem(&format!("loading kernel module {name}: {errno}")),
        }
    }
}

/// Has the root file system's own drivers loaded, by names. Returns whether that may have helped: without modprobe the kernel
/// may have them all the same.
pub(crate) fn request(names: &[&str]) -> bool {
    let mut modprobe = Command::new("/sbin/modprobe");
    modprobe.arg("-a").args(names).status().map_or(true, |status| status.success())
}

fn load_one(name: &str) -> Result<(), Errno> {
    let file = File::open(Path::new(DIRECTORY).join(name))
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    rustix::system::finit_module(&file, c"", 0)
}
