//! Limits on what a process may use.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::stage::Missing;

/// How many descriptors there can be beyond those that are open when the jail is locked: a debugger's connection, a file
/// for a snapshot.
const SPARE_DESCRIPTORS: u64 = 16;
/// How many more for what a guest has to say on the host's network: a socket each.
const SOCKETS: u64 = 10 << 10;

/// No core files, and no file larger than `largest_file`.
pub(crate) fn set(largest_file: u64, missing: &mut Missing) {
    missing.note("a limit on core files", limit(Resource::Core, 0));
    missing.note("a limit on files", limit(Resource::Fsize, largest_file));
}

/// No more processes or threads, and few more descriptors than for so many connections; with `network`, as many as the host
/// permits up to some thousands.
pub(crate) fn lock(network: bool, connections: u64, missing: &mut Missing) {
    missing.note("a limit on processes", limit(Resource::Nproc, 0));
    // The kernel gives the lowest number that is free.
    if let Some(next) = missing.note("a descriptor", std::io::pipe()).map(|(next, _)| next) {
        let next = std::os::fd::AsRawFd::as_raw_fd(&next).unsigned_abs();
        let more = SPARE_DESCRIPTORS + connections + if network { SOCKETS } else { 0 };
        missing.note("a limit on descriptors", limit(Resource::Nofile, u64::from(next) + more));
    }
}

/// Lets a process without a jail have as many descriptors as the host permits.
pub fn permit_sockets() {
    let limit = getrlimit(Resource::Nofile);
    // It is no more than permitted, and without it a guest has fewer connections.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// No core files, and as many descriptors as the host permits, up to `descriptors`: each file that a guest knows takes one.
pub(crate) fn set_for_share(descriptors: u64, missing: &mut Missing) {
    missing.note("a limit on core files", limit(Resource::Core, 0));
    let all = Rlimit { current: Some(descriptors), maximum: Some(descriptors) };
    if setrlimit(Resource::Nofile, all).is_err() {
        missing.note("a limit on descriptors", limit(Resource::Nofile, descriptors));
    }
}

/// No more processes or threads.
pub(crate) fn lock_share(missing: &mut Missing) {
    missing.note("a limit on processes", limit(Resource::Nproc, 0));
}

/// Sets a limit for good, or the greatest that is permitted if that is lower.
fn limit(resource: Resource, value: u64) -> rustix::io::Result<()> {
    let value = Some(getrlimit(resource).maximum.map_or(value, |maximum| maximum.min(value)));
    setrlimit(resource, Rlimit { current: value, maximum: value })
}
