//! Namespaces of the process's own, and a root directory with nothing in it.

use std::ffi::CStr;
use std::fs;
use std::io;

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use rustix::process::{chdir, chroot, getegid, geteuid, pivot_root};
use rustix::thread::UnshareFlags;

use crate::stage::Missing;
use crate::system;

/// A directory that every host has, to mount the empty root on.
pub(crate) const MOUNT_POINT: &CStr = c"/proc";

/// What has a namespace of its own, with the names that users know.
const NAMESPACES: [(UnshareFlags, &str); 5] = [
    (UnshareFlags::NEWNS, "a mount namespace"),
    (UnshareFlags::NEWIPC, "an IPC namespace"),
    (UnshareFlags::NEWUTS, "a UTS namespace"),
    (UnshareFlags::NEWNET, "a network namespace"),
    (UnshareFlags::NEWCGROUP, "a cgroup namespace"),
];

/// Enters namespaces of its own, as far as the host permits, and an empty root. With `network` it stays on the host's.
pub(crate) fn enter(own_user_namespace: bool, network: bool, missing: &mut Missing) {
    if !own_user_namespace {
        missing.note("a user namespace", own_users(UnshareFlags::empty()));
    }
    if leave_host(network, missing) {
        missing.note("an empty root directory", empty_root());
    }
}

/// Enters the namespaces of [`NAMESPACES`], and says whether the one of mounts is among those that the host permits.
pub(crate) fn leave_host(network: bool, missing: &mut Missing) -> bool {
    let mut mounts = true;
    let wanted = NAMESPACES.into_iter().filter(|(flag, _)| !network || *flag != UnshareFlags::NEWNET);
    if system::unshare(wanted.clone().map(|(flag, _)| flag).collect()).is_err() {
        // One that is refused is no reason to go without the others.
        for (flag, name) in wanted {
            let entered = missing.note(name, system::unshare(flag)).is_some();
            mounts &= entered || flag != UnshareFlags::NEWNS;
        }
    }
    mounts
}

/// Enters a user namespace, in which there are this user and group alone, under their own numbers; and the namespaces of
/// `others`.
pub(crate) fn own_users(others: UnshareFlags) -> io::Result<()> {
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    system::unshare(UnshareFlags::NEWUSER | others)?;
    // Without it the kernel takes no map of groups; one before 3.19 does not know it.
    let _ = fs::write("/proc/self/setgroups", "deny");
    fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("{group} {group} 1"))
}

/// Makes the root a file system that is empty and cannot be written, and lets go of the one before.
fn empty_root() -> io::Result<()> {
    keep_apart()?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("none", MOUNT_POINT, "tmpfs", flags, c"size=4k,nr_inodes=1,mode=555")?;
    make_root()
}

/// Makes what is mounted from here on invisible to the host.
pub(crate) fn keep_apart() -> rustix::io::Result<()> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
}

/// Makes what is mounted on [`MOUNT_POINT`] the root, and lets go of the one before.
pub(crate) fn make_root() -> io::Result<()> {
    chdir(MOUNT_POINT)?;
    match pivot_root(".", ".") {
        // The root before lies on the new one, by whose name it is reached.
        Ok(()) => unmount(".", UnmountFlags::DETACH)?,
        // The root of an initial RAM disk, or of a changed root, cannot be taken away.
        Err(rustix::io::Errno::INVAL) => chroot(".")?,
        Err(errno) => return Err(errno.into()),
    }
    Ok(chdir("/")?)
}
