//! File systems, and the change from the initial RAM disk to the root file system.

use std::ffi::CStr;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_move};

/// The disk that holds the root file system: the first virtio block device.
const ROOT_DEVICE: &str = "/dev/vda";
/// Where it is mounted before it becomes `/`.
const NEW_ROOT: &str = "/newroot";
/// How long the disk may take to appear. A software CPU is slow, a missing disk is for ever.
const DISK_PATIENCE: Duration = Duration::from_secs(20);

/// Why there is no system to run programs in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("mounting {what} on {target}")]
    Mount { what: &'static str, target: &'static str, source: io::Error },
    #[error("waiting for the root disk: {ROOT_DEVICE} did not appear within {} s", DISK_PATIENCE.as_secs())]
    NoDisk,
    #[error("mounting the root disk {ROOT_DEVICE} as ext4")]
    Root(#[source] io::Error),
    #[error("entering the root file system ({step})")]
    Enter { step: &'static str, source: io::Error },
}

/// A file system of the kernel's own making.
struct Virtual {
    kind: &'static str,
    target: &'static str,
    flags: MountFlags,
    data: Option<&'static CStr>,
}

const NO_PROGRAMS: MountFlags = MountFlags::NOSUID.union(MountFlags::NOEXEC).union(MountFlags::NODEV);

/// Needed from the first moment; moved into the root file system later.
const EARLY: [Virtual; 3] = [
    Virtual { kind: "proc", target: "/proc", flags: NO_PROGRAMS, data: None },
    Virtual { kind: "sysfs", target: "/sys", flags: NO_PROGRAMS, data: None },
    Virtual { kind: "devtmpfs", target: "/dev", flags: MountFlags::NOSUID, data: Some(c"mode=0755") },
];

/// What programs expect besides, mounted inside the root file system.
const LATE: [Virtual; 4] = [
    Virtual {
        kind: "devpts",
        target: "/dev/pts",
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
        data: Some(c"gid=5,mode=0620,ptmxmode=0666"),
    },
    Virtual {
        kind: "tmpfs",
        target: "/dev/shm",
        flags: MountFlags::NOSUID.union(MountFlags::NODEV),
        data: Some(c"mode=1777"),
    },
    Virtual {
        kind: "tmpfs",
        target: "/run",
        flags: MountFlags::NOSUID.union(MountFlags::NODEV),
        data: Some(c"mode=0755"),
    },
    Virtual { kind: "cgroup2", target: "/sys/fs/cgroup", flags: NO_PROGRAMS, data: None },
];

/// Links in `/dev` that every shell script takes for granted.
const DEVICE_LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// Mounts `/proc`, `/sys` and `/dev`.
pub(crate) fn mount_kernel_file_systems() -> Result<(), Error> {
    EARLY.iter().try_for_each(Virtual::mount)
}

/// Waits for the root disk, makes it `/`, and mounts what a system has besides.
pub(crate) fn enter_root() -> Result<(), Error> {
    wait_for_disk()?;
    mount_root().map_err(Error::Root)?;
    switch_root()?;
    for file_system in &LATE {
        file_system.mount()?;
    }
    for (target, link) in DEVICE_LINKS {
        // devtmpfs is fresh, so the only way to fail is that the kernel made the link itself.
        let _ = symlink(target, link);
    }
    let _ = DirBuilder::new().mode(0o1777).create("/run/lock");
    Ok(())
}

impl Virtual {
    fn mount(&self) -> Result<(), Error> {
        let wrap = |source| Error::Mount { what: self.kind, target: self.target, source };
        fs::create_dir_all(self.target).map_err(wrap)?;
        match mount(self.kind, self.target, self.kind, self.flags, self.data) {
            Ok(()) => Ok(()),
            // A kernel may lack cgroups, say; most programs never notice.
            Err(Errno::NODEV) if self.kind != "proc" => {
                crate::report::problem(&format!(
                    "{} is not in this kernel; {} stays empty",
                    self.kind, self.target
                ));
                Ok(())
            }
            Err(errno) => Err(wrap(errno.into())),
        }
    }
}

fn wait_for_disk() -> Result<(), Error> {
    let deadline = Instant::now() + DISK_PATIENCE;
    while !Path::new(ROOT_DEVICE).exists() {
        if Instant::now() > deadline {
            return Err(Error::NoDisk);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn mount_root() -> io::Result<()> {
    fs::create_dir_all(NEW_ROOT)?;
    let options = MountFlags::NOATIME;
    match mount(ROOT_DEVICE, NEW_ROOT, "ext4", options, None) {
        // The host attached the disk read-only; let programs find out by themselves.
        Err(Errno::ROFS | Errno::ACCESS) => {
            mount(ROOT_DEVICE, NEW_ROOT, "ext4", options | MountFlags::RDONLY, None)
        }
        other => other,
    }
    .map_err(io::Error::from)
}

/// Moves the mounts over, frees the RAM disk, and makes [`NEW_ROOT`] the root (what `switch_root(8)` does).
fn switch_root() -> Result<(), Error> {
    let step = |step: &'static str| move |source: io::Error| Error::Enter { step, source };
    for file_system in &EARLY {
        let target = format!("{NEW_ROOT}{}", file_system.target);
        fs::create_dir_all(&target).map_err(step("creating a mount point"))?;
        mount_move(file_system.target, &target).map_err(|e| step("moving a mount")(e.into()))?;
    }
    rustix::process::chdir(NEW_ROOT).map_err(|e| step("changing directory")(e.into()))?;
    // The RAM disk stays mounted for ever beneath; its files would keep their memory. This program's own
    // pages stay as long as it runs.
    let _ = fs::remove_file("/init");
    let _ = fs::remove_dir_all(crate::modules::DIRECTORY);
    mount_move(".", "/").map_err(|e| step("moving the root mount")(e.into()))?;
    rustix::process::chroot(".").map_err(|e| step("changing root")(e.into()))?;
    rustix::process::chdir("/").map_err(|e| step("changing directory")(e.into()))
}
