//! The jail of a process that serves one directory of the host: that is all it has for a root.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags, fstatvfs, openat};
use rustix::mount::{MountFlags, OpenTreeFlags, mount_bind_recursive, mount_remount, open_tree};
use rustix::process::{chdir, fchdir, geteuid};
use rustix::thread::{CapabilitySet, set_thread_groups};

use crate::filter::Filters;
use crate::namespaces::{self, MOUNT_POINT};
use crate::process::Inmate;
use crate::stage::{Jail, Missing, Purpose, install};
use crate::system::restrict_mounts;
use crate::{landlock, limits, privileges};

/// The most descriptors that the process needs.
const DESCRIPTORS: u64 = 1 << 20;
/// The links of the process's descriptors.
const LINKS: &str = "/proc/self/fd";
/// What files of others take, and what is made as somebody else. In a user namespace they are good for its own user's files.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID);

/// What a process in such a jail has.
#[derive(Debug)]
pub struct SharedDirectory {
    /// The directory, which is the root.
    pub root: OwnedFd,
    /// The directory of the links of its descriptors, which leads nowhere else; and the working directory.
    pub links: OwnedFd,
    /// Whether there are no users but its own there, because the process has a user namespace for itself.
    pub alone: bool,
}

impl Inmate {
    /// Enters a jail whose root is `directory`, where nothing can be changed with `read_only`. The caller closes what it has
    /// of the world outside.
    ///
    /// To be called while there is one thread.
    ///
    /// # Errors
    /// When the directory is gone, or the process has no links of its descriptors.
    pub fn enter_directory(
        self,
        directory: BorrowedFd<'_>,
        read_only: bool,
    ) -> io::Result<(Jail, SharedDirectory)> {
        let Self { own_user_namespace, mut missing } = self;
        limits::set_for_share(DESCRIPTORS, &mut missing);
        if geteuid().is_root() {
            // Groups of root are none of the guest's users'.
            missing.note("no supplementary groups", set_thread_groups(&[]));
        }
        let (root, links) = make_root(directory, read_only, &mut missing)?;
        let shared = SharedDirectory { root, links, alone: own_user_namespace };
        fchdir(&shared.links)?;
        privileges::drop_but(KEPT, &mut missing);
        missing.note("Landlock", landlock::restrict_to(shared.root.as_fd(), read_only));
        install(Filters::compile_for_share(), &mut missing);
        Ok((Jail::new(Purpose::Share, missing), shared))
    }
}

/// Makes the directory the root, if the host permits it. Returns it, and the links of descriptors.
fn make_root(
    directory: BorrowedFd<'_>,
    read_only: bool,
    missing: &mut Missing,
) -> io::Result<(OwnedFd, OwnedFd)> {
    // A descriptor stays in the mounts that it was opened in; the working directory goes along.
    fchdir(directory)?;
    let mounts = namespaces::leave_host(false, missing);
    // A mount of nothing else: there is no way up from it.
    let alone = if mounts {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        missing.note("links of descriptors alone", open_tree(CWD, LINKS, flags))
    } else {
        None
    };
    let links = match alone {
        Some(links) => links,
        None => open_directory(LINKS)?,
    };
    if mounts {
        let mounted = mount_as_root(directory, read_only, missing);
        if missing.note("the directory as root", mounted).is_some() {
            return Ok((open_directory("/")?, links));
        }
    }
    Ok((directory.try_clone_to_owned()?, links))
}

/// Mounts the working directory, which is `directory`, on a place of every host, and makes that the root.
fn mount_as_root(directory: BorrowedFd<'_>, read_only: bool, missing: &mut Missing) -> io::Result<()> {
    namespaces::keep_apart()?;
    mount_bind_recursive(".", MOUNT_POINT)?;
    let mut flags = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    if read_only || fstatvfs(directory)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        flags |= MountFlags::RDONLY;
    }
    mount_remount(MOUNT_POINT, flags, "")?;
    missing.note("limits on what is mounted below the directory", restrict_mounts(MOUNT_POINT, read_only));
    namespaces::make_root()?;
    Ok(chdir("/")?)
}

fn open_directory(path: &str) -> io::Result<OwnedFd> {
    Ok(openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}
