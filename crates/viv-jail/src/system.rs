//! System calls that have no safe wrapper.
#![allow(unsafe_code, reason = "process creation, namespaces and descriptors by number")]

use std::ffi::CStr;
use std::io;
use std::os::fd::RawFd;

use rustix::process::Pid;
use rustix::thread::UnshareFlags;

/// Splits the process; gives the child's number to the parent, and `None` to the child.
///
/// # Errors
/// When there is more than one thread, of which the child would have one alone, with the others' locks held; or when the
/// host gives no process.
pub(crate) fn fork() -> io::Result<Option<Pid>> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("there are other threads already"));
    }
    // SAFETY: this is the only thread, so the child finds all memory as it must be, locks included.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        child => Ok(Pid::from_raw(child)),
    }
}

/// Moves the process into new namespaces.
pub(crate) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    debug_assert!(!flags.contains(UnshareFlags::FILES), "descriptors belong to the whole process");
    // SAFETY: the table of descriptors stays shared by all threads, which is what the wrapper is unsafe for.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(Into::into)
}

/// Has all mounts at `path` and below give nobody more rights, hold no devices and no programs; with `read_only`, change in
/// nothing.
///
/// # Errors
/// When the host forbids it, or is older than Linux 5.12.
pub(crate) fn restrict_mounts(path: &CStr, read_only: bool) -> io::Result<()> {
    let limits = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    let attributes = libc::mount_attr {
        attr_set: limits | if read_only { libc::MOUNT_ATTR_RDONLY } else { 0 },
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the path ends with a zero, and the attributes are as long as it is said.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::AT_RECURSIVE,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Closes all descriptors but the standard ones and `kept`.
pub(crate) fn close_all_but(kept: &mut [RawFd]) {
    kept.sort_unstable();
    let mut first = 3;
    for &fd in kept.iter() {
        close_range(first, fd - 1);
        first = first.max(fd + 1);
    }
    close_range(first, RawFd::MAX);
}

fn close_range(first: RawFd, last: RawFd) {
    if let (Ok(first), Ok(last)) = (u32::try_from(first), u32::try_from(last))
        && first <= last
    {
        // SAFETY: by the caller's contract nobody in this process owns these descriptors. A kernel before 5.9 does not
        // know the call, and leaves them open.
        unsafe { libc::close_range(first, last, 0) };
    }
}
