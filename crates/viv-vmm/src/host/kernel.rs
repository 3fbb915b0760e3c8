//! What the host's kernel has for virtual machine processes, their jails, and images.

use std::fs;
use std::path::Path;

use rustix::fs::{Access, MemfdFlags, memfd_create};

/// What was found of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelFacts {
    /// Its version, major and minor.
    pub version: (u32, u32),
    /// The kinds of namespaces that it lacks, of [`NAMESPACES`].
    pub missing_namespaces: Vec<&'static str>,
    /// The cgroup controllers that it lacks, of [`CONTROLLERS`].
    pub missing_controllers: Vec<&'static str>,
    /// Filters of system calls.
    pub seccomp: bool,
    /// Sandboxes of files and ports.
    pub landlock: Landlock,
    /// Asynchronous I/O by rings.
    pub io_uring: Allowed,
    /// Page faults handled by programs.
    pub userfaultfd: Allowed,
    /// Files in memory.
    pub memfd: bool,
    /// `/dev/net/tun`, for networks.
    pub tun: Device,
    /// `/dev/vhost-net`, for fast networks.
    pub vhost_net: Device,
    /// `/dev/vhost-vsock`, for sockets between host and guests.
    pub vhost_vsock: Device,
    /// File systems in layers.
    pub overlayfs: bool,
}

/// The kinds of namespaces that jails and containers need.
pub const NAMESPACES: [&str; 7] = ["user", "pid", "net", "mnt", "uts", "ipc", "cgroup"];
/// The cgroup controllers that shares of the host need. Version 1 has `blkio` for `io`.
pub const CONTROLLERS: [&str; 5] = ["cpu", "memory", "pids", "cpuset", "io"];

/// The first version with mounts that map user ids.
const IDMAPPED_MOUNTS: (u32, u32) = (5, 12);
/// The first version with io_uring.
const IO_URING: (u32, u32) = (5, 1);

/// Whether there is Landlock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Landlock {
    /// It is on.
    On,
    /// It is there and not on.
    Off,
    /// It is there; whether it is on, the host does not say.
    BuiltIn,
    /// It is not there.
    Absent,
}

/// Who may use something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    /// Everybody.
    Everybody,
    /// Root alone, or a group.
    Privileged,
    /// Nobody.
    Nobody,
    /// It is not there.
    Absent,
}

/// Whether a device can be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// It can.
    Open,
    /// Not by this user.
    Closed,
    /// It is not there.
    Absent,
}

impl KernelFacts {
    /// The facts of this host's kernel.
    #[must_use]
    pub fn read() -> Self {
        Self::read_below(Path::new("/"))
    }

    /// The facts of a host whose `/proc`, `/sys` and `/dev` lie below `root`.
    #[must_use]
    pub fn read_below(root: &Path) -> Self {
        let text = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
        let version = version(&text("proc/sys/kernel/osrelease"));
        let controllers = controllers(&text("proc/self/mounts"), &text("sys/fs/cgroup/cgroup.controllers"));
        let has_namespace = |name: &str| root.join("proc/self/ns").join(name).exists();
        Self {
            version,
            missing_namespaces: without(&NAMESPACES, has_namespace),
            missing_controllers: without(&CONTROLLERS, |name| controllers.iter().any(|found| found == name)),
            seccomp: root.join("proc/sys/kernel/seccomp/actions_avail").exists(),
            landlock: landlock(root),
            io_uring: match text("proc/sys/kernel/io_uring_disabled").trim() {
                "0" => Allowed::Everybody,
                "1" => Allowed::Privileged,
                // Kernels before 6.6 have no such switch.
                "" if version >= IO_URING => Allowed::Everybody,
                "" => Allowed::Absent,
                _ => Allowed::Nobody,
            },
            userfaultfd: match text("proc/sys/vm/unprivileged_userfaultfd").trim() {
                "1" => Allowed::Everybody,
                "" => Allowed::Absent,
                _ => Allowed::Privileged,
            },
            memfd: memfd_create("probe", MemfdFlags::CLOEXEC).is_ok(),
            tun: device(root, "dev/net/tun"),
            vhost_net: device(root, "dev/vhost-net"),
            vhost_vsock: device(root, "dev/vhost-vsock"),
            overlayfs: text("proc/filesystems").split_whitespace().any(|name| name == "overlay")
                || has_module(root, text("proc/sys/kernel/osrelease").trim(), "/overlay.ko"),
        }
    }

    /// Whether user ids can be mapped by mounts.
    #[must_use]
    pub fn has_idmapped_mounts(&self) -> bool {
        self.version >= IDMAPPED_MOUNTS
    }
}

fn without(names: &[&'static str], has: impl Fn(&str) -> bool) -> Vec<&'static str> {
    names.iter().copied().filter(|name| !has(name)).collect()
}

/// Major and minor of a release such as `6.1.0-18-amd64`; zeroes where there is none.
fn version(release: &str) -> (u32, u32) {
    let mut parts = release.split(['.', '-']).map(|part| part.trim().parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// The controllers of both versions, by the names that version 2 has for them.
fn controllers(mounts: &str, unified: &str) -> Vec<String> {
    let of_version_1 = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .filter(|fields| fields.get(2) == Some(&"cgroup"))
        .filter_map(|fields| fields.get(3).copied())
        .flat_map(|options| options.split(','))
        .map(|name| if name == "blkio" { "io" } else { name }.to_owned());
    of_version_1.chain(unified.split_whitespace().map(str::to_owned)).collect()
}

fn landlock(root: &Path) -> Landlock {
    let built_in = || {
        fs::read_to_string(root.join("proc/kallsyms"))
            .is_ok_and(|symbols| symbols.contains("landlock_create_ruleset"))
    };
    match fs::read_to_string(root.join("sys/kernel/security/lsm")) {
        Ok(active) if active.trim().split(',').any(|name| name == "landlock") => Landlock::On,
        Ok(_) if built_in() => Landlock::Off,
        Err(_) if built_in() => Landlock::BuiltIn,
        _ => Landlock::Absent,
    }
}

fn device(root: &Path, path: &str) -> Device {
    let path = root.join(path);
    if !path.exists() {
        Device::Absent
    } else if rustix::fs::access(&path, Access::READ_OK | Access::WRITE_OK).is_ok() {
        Device::Open
    } else {
        Device::Closed
    }
}

/// Whether a module for this kernel is installed that need not be loaded yet.
fn has_module(root: &Path, release: &str, file: &str) -> bool {
    let list = root.join("lib/modules").join(release).join("modules.dep");
    !release.is_empty()
        && fs::read_to_string(list).is_ok_and(|list| {
            list.lines().any(|line| line.split(':').next().is_some_and(|name| name.contains(file)))
        })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A kernel described by files.
    pub(in crate::host) fn kernel(files: &[(&str, &str)]) -> KernelFacts {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        KernelFacts::read_below(root.path())
    }

    #[test]
    fn a_bare_kernel_lacks_everything() {
        let facts = kernel(&[]);
        assert_eq!(facts.missing_namespaces, NAMESPACES);
        assert_eq!(facts.missing_controllers, CONTROLLERS);
        assert_eq!(
            (facts.landlock, facts.io_uring, facts.tun),
            (Landlock::Absent, Allowed::Absent, Device::Absent)
        );
        assert!(!facts.has_idmapped_mounts() && !facts.overlayfs && !facts.seccomp);
    }

    #[test]
    fn controllers_of_both_versions_count() {
        let mounts = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu,cpuacct 0 0\ncgroup /b cgroup rw,blkio 0 0\n";
        let files = [("proc/self/mounts", mounts), ("sys/fs/cgroup/cgroup.controllers", "memory pids\n")];
        assert_eq!(kernel(&files).missing_controllers, ["cpuset"]);
    }

    #[test]
    fn switches_are_read() {
        let uring = |text| kernel(&[("proc/sys/kernel/io_uring_disabled", text)]).io_uring;
        assert_eq!(
            [uring("0\n"), uring("1\n"), uring("2\n")],
            [Allowed::Everybody, Allowed::Privileged, Allowed::Nobody]
        );
        let old = kernel(&[("proc/sys/kernel/osrelease", "5.10.0-9-amd64\n")]);
        assert_eq!((old.version, old.io_uring), ((5, 10), Allowed::Everybody));
        assert!(!old.has_idmapped_mounts());
        let symbols = ("proc/kallsyms", "0 t __x64_sys_landlock_create_ruleset\n");
        let lsm = |text| kernel(&[symbols, ("sys/kernel/security/lsm", text)]).landlock;
        assert_eq!([lsm("lockdown,landlock,yama"), lsm("yama")], [Landlock::On, Landlock::Off]);
        assert_eq!(kernel(&[symbols]).landlock, Landlock::BuiltIn);
    }

    #[test]
    fn a_module_that_can_be_loaded_counts() {
        let release = ("proc/sys/kernel/osrelease", "6.1.0-9\n");
        let list = ("lib/modules/6.1.0-9/modules.dep", "kernel/fs/overlayfs/overlay.ko:\n");
        assert!(kernel(&[release, list]).overlayfs);
        assert!(!kernel(&[release]).overlayfs);
    }
}
