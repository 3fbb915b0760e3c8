//! Directories of the host: file systems of virtio.

use std::fs;
use std::io;

use rustix::fs::{major, minor, stat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use viv_guest_proto::Mount;

use crate::modules;

/// The kernel's name of the file system, and of its driver, which is the root file system's.
const KIND: &str = "virtiofs";
/// Where the kernel lists the file systems that it knows.
const KNOWN: &str = "/proc/filesystems";

/// How far the kernel reads ahead in a file, in KiB: the most that it can ask the server for at once.
const READ_AHEAD: &str = "1024";

/// Mounts what the host shares. A program that was to find files there must not run without.
pub(crate) fn mount_all(mounts: &[Mount]) -> io::Result<()> {
    if !mounts.is_empty() && !fs::read_to_string(KNOWN)?.split_whitespace().any(|known| known == KIND) {
        // That it failed shows by the mounts.
        modules::request(&[KIND]);
    }
    mounts.iter().try_for_each(|wanted| {
        mount_one(wanted).map_err(|error| {
            let Mount { tag, directory, .. } = wanted;
            io::Error::other(format!("mounting the share {tag} on {directory}: {error}"))
        })
    })
}

fn mount_one(Mount { tag, directory, readonly }: &Mount) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let access = if *readonly { MountFlags::RDONLY } else { MountFlags::empty() };
    mount(tag.as_str(), directory.as_str(), KIND, access, None).map_err(|errno| match errno {
        Errno::NODEV => io::Error::other(format!("the kernel has no driver for it ({KIND})")),
        errno => errno.into(),
    })?;
    // It works without, with more and shorter requests.
    let _ = read_far_ahead(directory);
    Ok(())
}

/// Has the kernel read far ahead in the file system that is mounted there: by itself it asks for 128 KiB at a time.
fn read_far_ahead(directory: &str) -> io::Result<()> {
    let device = stat(directory)?.st_dev;
    fs::write(format!("/sys/class/bdi/{}:{}/read_ahead_kb", major(device), minor(device)), READ_AHEAD)
}
