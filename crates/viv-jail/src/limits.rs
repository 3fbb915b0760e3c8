//! Limits on what a process may use.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::stage::Missing;

/// How many descriptors there can be beyond those that are open when the jail is locked: a debugger's connection, a file
/// for a snapshot.
const SPARE_DESCRIPTORS: u64 = 16;

/// No core files, and no file larger than `largest_file`.
pub(crate) fn set(largest_file: u64, missing: &mut Missing) {
    missing.note("a limit on core files", limit(Resource::Core, 0));
    missing.note("a limit on files", limit(Resource::Fsize, largest_file));
}

/// No more processes or threads, and few more descriptors.
pub(crate) fn lock(missing: &mut Missing) {
    missing.note("a limit on processes", limit(Resource::Nproc, 0));
    // The kernel gives the lowest number that is free.
    if let Some(next) = missing.note("a descriptor", std::io::pipe()).map(|(next, _)| next) {
        let next = std::os::fd::AsRawFd::as_raw_fd(&next).unsigned_abs();
        missing.note("a limit on descriptors", limit(Resource::Nofile, u64::from(next) + SPARE_DESCRIPTORS));
    }
}

/// Sets a limit for good, unless it is lower already.
fn limit(resource: Resource, value: u64) -> rustix::io::Result<()> {
    let lower = |limit: Option<u64>| Some(limit.map_or(value, |limit| limit.min(value)));
    let Rlimit { current, maximum } = getrlimit(resource);
    setrlimit(resource, Rlimit { current: lower(current), maximum: lower(maximum) })
}
