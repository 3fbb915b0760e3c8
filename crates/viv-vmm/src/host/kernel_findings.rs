//! What the kernel's facts mean to a user.

use super::findings::Finding;
use super::findings::FindingStatus::{Fail, Pass, Warn};
use super::kernel::{Allowed, Device, KernelFacts, Landlock};

impl KernelFacts {
    /// The facts as a list, in a fixed order.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        vec![
            self.memfd_finding(),
            self.controllers_finding(),
            self.namespaces_finding(),
            self.seccomp_finding(),
            self.landlock_finding(),
            self.io_uring_finding(),
            self.userfaultfd_finding(),
            device_finding(
                "tun",
                "/dev/net/tun",
                self.tun,
                "load the module tun for networks of guests",
                "run viv as root, or give this user access, for networks of guests",
            ),
            device_finding(
                "vhost-net",
                "/dev/vhost-net",
                self.vhost_net,
                "load the module vhost_net for faster networks",
                "join the group kvm for faster networks",
            ),
            device_finding(
                "vhost-vsock",
                "/dev/vhost-vsock",
                self.vhost_vsock,
                "load the module vhost_vsock for sockets between host and guests",
                "join the group kvm for sockets between host and guests",
            ),
            self.overlayfs_finding(),
            self.idmapped_mounts_finding(),
        ]
    }

    fn memfd_finding(&self) -> Finding {
        if self.memfd {
            Finding::new("memfd", Pass, "files in memory can be made", None)
        } else {
            let advice =
                "guest memory is such a file: lift the limit or the filter that forbids memfd_create";
            Finding::new("memfd", Fail, "files in memory cannot be made", Some(advice))
        }
    }

    fn controllers_finding(&self) -> Finding {
        let advice =
            "guests' shares of the host need them: turn them on by the kernel's command line or systemd";
        list_finding("cgroup-controllers", &self.missing_controllers, advice)
    }

    fn namespaces_finding(&self) -> Finding {
        list_finding("namespaces", &self.missing_namespaces, "jails need them: run a kernel that has them")
    }

    fn seccomp_finding(&self) -> Finding {
        if self.seccomp {
            Finding::new("seccomp", Pass, "filters of system calls", None)
        } else {
            let advice = "run a kernel with CONFIG_SECCOMP_FILTER to jail VM processes";
            Finding::new("seccomp", Warn, "no filters of system calls", Some(advice))
        }
    }

    fn landlock_finding(&self) -> Finding {
        let (status, value, advice) = match self.landlock {
            Landlock::On => (Pass, "on", None),
            Landlock::Off => {
                (Warn, "built in, and off", Some("add landlock to lsm= on the kernel's command line"))
            }
            Landlock::BuiltIn => (
                Warn,
                "built in; whether it is on, the host does not say",
                Some("mount securityfs at /sys/kernel/security to see"),
            ),
            Landlock::Absent => (
                Warn,
                "not there",
                Some("run Linux 5.13 or later with CONFIG_SECURITY_LANDLOCK to jail VM processes"),
            ),
        };
        Finding::new("landlock", status, value, advice)
    }

    fn io_uring_finding(&self) -> Finding {
        let advice = "write 0 to /proc/sys/kernel/io_uring_disabled for faster disks";
        allowed_finding("io_uring", self.io_uring, advice, "run Linux 5.1 or later for faster disks")
    }

    fn userfaultfd_finding(&self) -> Finding {
        let advice = "write 1 to /proc/sys/vm/unprivileged_userfaultfd so that guests can start before their memory is there";
        let absent =
            "run a kernel with CONFIG_USERFAULTFD so that guests can start before their memory is there";
        allowed_finding("userfaultfd", self.userfaultfd, advice, absent)
    }

    fn overlayfs_finding(&self) -> Finding {
        if self.overlayfs {
            Finding::new("overlayfs", Pass, "file systems in layers", None)
        } else {
            let advice = "run a kernel with CONFIG_OVERLAY_FS to share images between containers";
            Finding::new("overlayfs", Warn, "not there", Some(advice))
        }
    }

    fn idmapped_mounts_finding(&self) -> Finding {
        let (major, minor) = self.version;
        if self.has_idmapped_mounts() {
            Finding::new("idmapped-mounts", Pass, format!("Linux {major}.{minor} has them"), None)
        } else {
            let advice = "run Linux 5.12 or later to share files with containers under other user ids";
            Finding::new(
                "idmapped-mounts",
                Warn,
                format!("Linux {major}.{minor} does not have them"),
                Some(advice),
            )
        }
    }
}

fn list_finding(name: &'static str, missing: &[&str], advice: &'static str) -> Finding {
    if missing.is_empty() {
        Finding::new(name, Pass, "all that are needed", None)
    } else {
        Finding::new(name, Warn, format!("missing: {}", missing.join(", ")), Some(advice))
    }
}

fn allowed_finding(
    name: &'static str,
    allowed: Allowed,
    advice: &'static str,
    absent: &'static str,
) -> Finding {
    match allowed {
        Allowed::Everybody => Finding::new(name, Pass, "for everybody", None),
        Allowed::Privileged => Finding::new(name, Warn, "for root alone, or a group", Some(advice)),
        Allowed::Nobody => Finding::new(name, Warn, "switched off", Some(advice)),
        Allowed::Absent => Finding::new(name, Warn, "not there", Some(absent)),
    }
}

fn device_finding(
    name: &'static str,
    path: &'static str,
    device: Device,
    absent: &'static str,
    closed: &'static str,
) -> Finding {
    match device {
        Device::Open => Finding::new(name, Pass, path, None),
        Device::Closed => Finding::new(name, Warn, format!("{path}, not open to this user"), Some(closed)),
        Device::Absent => Finding::new(name, Warn, format!("no {path}"), Some(absent)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernel::tests::kernel;
    use super::*;

    #[test]
    fn whatever_is_not_as_it_should_be_comes_with_advice() {
        let findings = kernel(&[]).findings();
        assert!(
            findings.iter().all(|finding| (finding.status == Pass) == finding.advice.is_none()),
            "{findings:?}"
        );
        let facts = KernelFacts { memfd: false, ..kernel(&[]) };
        assert!(facts.findings().iter().any(|finding| finding.name == "memfd" && finding.status == Fail));
    }
}
