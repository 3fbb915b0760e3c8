//! Reading the facts.

use std::fs;
use std::path::Path;

use rustix::fs::Access;

/// What was found on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// The processor's name.
    pub processor: Option<String>,
    /// The processor's virtualization extension: `vmx` (Intel's VT-x) or `svm` (AMD-V).
    pub extension: Option<&'static str>,
    /// Its second-level page tables: `ept` or `npt`.
    pub nested_paging: Option<&'static str>,
    /// Whether this host is a guest itself.
    pub hypervisor: bool,
    /// The module of KVM's that is loaded for the processor, or built in.
    pub module: Option<&'static str>,
    /// `/dev/kvm` and what is behind it.
    pub kvm: KvmBacking,
    /// Whether KVM offers virtualization to its guests in turn; `None` where it does not say.
    pub nested: Option<bool>,
    /// The mode of transparent huge pages for files in memory, which guests' RAM is: `always`, `within_size`, `advise`,
    /// `never`, `deny` or `force`.
    pub transparent_huge_pages: Option<String>,
    /// Huge pages set aside, of the default size.
    pub reserved_huge_pages: u64,
    /// Which control groups are mounted.
    pub cgroups: Cgroups,
    /// Who can make user namespaces.
    pub user_namespaces: UserNamespaces,
    /// How many IOMMU groups there are.
    pub iommu_groups: usize,
    /// Memory and swap, in bytes.
    pub memory: u64,
}

/// What is behind `/dev/kvm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvmBacking {
    /// There is no such device.
    Absent,
    /// The processor's extension.
    Hardware {
        /// Whether this user may open it.
        accessible: bool,
    },
    /// The `kvm_pvm` module: no extension needed, but kernel mode is emulated slowly and incompletely.
    Pvm,
    /// A device with no extension in sight.
    Unknown,
}

/// Which control groups are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cgroups {
    /// None.
    Absent,
    /// Version 1 alone.
    V1,
    /// Version 1, and version 2 beside it.
    Hybrid,
    /// Version 2 alone.
    V2,
}

/// Who can make user namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserNamespaces {
    /// Nobody.
    Absent,
    /// Root alone.
    Privileged,
    /// Everybody.
    Everybody,
}

impl HostFacts {
    /// The facts of this host.
    #[must_use]
    pub fn read() -> Self {
        Self::read_below(Path::new("/"))
    }

    /// The facts of a host whose `/proc`, `/sys` and `/dev` lie below `root`. What cannot be read counts as
    /// absent.
    #[must_use]
    pub fn read_below(root: &Path) -> Self {
        let text = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
        let cpuinfo = text("proc/cpuinfo");
        let flags = processor_flags(&cpuinfo);
        let first_of = |names: [&'static str; 2]| names.into_iter().find(|name| flags.contains(name));
        let extension = first_of(["vmx", "svm"]);
        Self {
            processor: cpuinfo_values(&cpuinfo, "model name").next().map(str::to_owned),
            extension,
            nested_paging: first_of(["ept", "npt"]),
            hypervisor: flags.contains(&"hypervisor"),
            module: ["kvm_pvm", "kvm_intel", "kvm_amd"]
                .into_iter()
                .find(|name| root.join("sys/module").join(name).exists()),
            kvm: kvm_backing(root, extension.is_some()),
            nested: nested(root),
            transparent_huge_pages: selected(&text("sys/kernel/mm/transparent_hugepage/shmem_enabled")),
            reserved_huge_pages: meminfo(&text("proc/meminfo"), "HugePages_Total"),
            cgroups: cgroups(&text("proc/self/mounts")),
            user_namespaces: user_namespaces(root),
            iommu_groups: fs::read_dir(root.join("sys/kernel/iommu_groups")).map_or(0, Iterator::count),
            memory: total_memory(&text("proc/meminfo")),
        }
    }
}

/// Memory and swap of this host, in bytes; 0 if it does not say.
pub(crate) fn host_memory() -> u64 {
    total_memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default())
}

fn total_memory(text: &str) -> u64 {
    meminfo(text, "MemTotal").saturating_add(meminfo(text, "SwapTotal")).saturating_mul(1024)
}

fn meminfo(text: &str, key: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| *name == key)
        .and_then(|(_, value)| value.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

/// The values of `key` in `/proc/cpuinfo`'s format.
fn cpuinfo_values<'a>(cpuinfo: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(move |(name, _)| name.trim() == key)
        .map(|(_, value)| value.trim())
}

/// The first processor's flags, with those that newer kernels list apart as VMX flags.
fn processor_flags(cpuinfo: &str) -> Vec<&str> {
    ["flags", "vmx flags"]
        .into_iter()
        .filter_map(|key| cpuinfo_values(cpuinfo, key).next())
        .flat_map(str::split_whitespace)
        .collect()
}

fn kvm_backing(root: &Path, extension: bool) -> KvmBacking {
    let device = root.join("dev/kvm");
    if !device.exists() {
        KvmBacking::Absent
    } else if root.join("sys/module/kvm_pvm").exists() {
        KvmBacking::Pvm
    } else if extension {
        let accessible = rustix::fs::access(&device, Access::READ_OK | Access::WRITE_OK).is_ok();
        KvmBacking::Hardware { accessible }
    } else {
        KvmBacking::Unknown
    }
}

fn nested(root: &Path) -> Option<bool> {
    ["kvm_intel", "kvm_amd"]
        .into_iter()
        .find_map(|module| {
            fs::read_to_string(root.join("sys/module").join(module).join("parameters/nested")).ok()
        })
        .map(|value| matches!(value.trim(), "Y" | "1"))
}

/// The word in brackets.
fn selected(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    rest.split_once(']').map(|(word, _)| word.to_owned())
}

fn cgroups(mounts: &str) -> Cgroups {
    let has = |kind: &str| mounts.lines().any(|line| line.split(' ').nth(2) == Some(kind));
    match (has("cgroup"), has("cgroup2")) {
        (false, false) => Cgroups::Absent,
        (true, false) => Cgroups::V1,
        (true, true) => Cgroups::Hybrid,
        (false, true) => Cgroups::V2,
    }
}

fn user_namespaces(root: &Path) -> UserNamespaces {
    let number = |path: &str| -> Option<u64> {
        fs::read_to_string(root.join("proc/sys").join(path)).ok()?.trim().parse().ok()
    };
    if number("user/max_user_namespaces").unwrap_or(0) == 0 {
        UserNamespaces::Absent
    } else if number("kernel/unprivileged_userns_clone") == Some(0)
        || number("kernel/apparmor_restrict_unprivileged_userns") == Some(1)
    {
        UserNamespaces::Privileged
    } else {
        UserNamespaces::Everybody
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A host described by files.
    pub(crate) fn host(files: &[(&str, &str)]) -> HostFacts {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        HostFacts::read_below(root.path())
    }

    pub(crate) const INTEL: (&str, &str) = (
        "proc/cpuinfo",
        "model name\t: Core\nflags\t\t: fpu vmx nx\nvmx flags\t: vnmi ept ept_ad\n\nflags\t\t: fpu\n",
    );
    pub(crate) const GUEST: (&str, &str) = ("proc/cpuinfo", "flags\t\t: fpu nx hypervisor\n");
    pub(crate) const KVM: (&str, &str) = ("dev/kvm", "");
    pub(crate) const PVM: (&str, &str) = ("sys/module/kvm_pvm/uevent", "");

    #[test]
    fn an_empty_host_offers_nothing() {
        let facts = host(&[]);
        assert_eq!(facts.kvm, KvmBacking::Absent);
        assert_eq!(facts.cgroups, Cgroups::Absent);
        assert_eq!(facts.user_namespaces, UserNamespaces::Absent);
        assert_eq!((facts.extension, facts.nested_paging, facts.memory), (None, None, 0));
    }

    #[test]
    fn a_full_host_offers_everything() {
        let facts = host(&[
            INTEL,
            KVM,
            ("sys/module/kvm_intel/parameters/nested", "Y\n"),
            (
                "sys/kernel/mm/transparent_hugepage/shmem_enabled",
                "always within_size [advise] never deny force\n",
            ),
            ("proc/meminfo", "MemTotal:     100 kB\nSwapTotal:      28 kB\nHugePages_Total:       3\n"),
            ("proc/self/mounts", "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n"),
            ("proc/sys/user/max_user_namespaces", "1000\n"),
            ("sys/kernel/iommu_groups/0/type", "DMA\n"),
        ]);
        assert_eq!(facts.processor.as_deref(), Some("Core"));
        assert_eq!((facts.extension, facts.nested_paging), (Some("vmx"), Some("ept")));
        assert_eq!(facts.kvm, KvmBacking::Hardware { accessible: true });
        assert_eq!((facts.module, facts.nested), (Some("kvm_intel"), Some(true)));
        assert_eq!(facts.transparent_huge_pages.as_deref(), Some("advise"));
        assert_eq!((facts.reserved_huge_pages, facts.memory), (3, 128 << 10));
        assert_eq!(facts.cgroups, Cgroups::V2);
        assert_eq!(facts.user_namespaces, UserNamespaces::Everybody);
        assert_eq!(facts.iommu_groups, 1);
    }

    #[test]
    fn kvm_is_told_from_its_imitations() {
        assert_eq!(host(&[GUEST, KVM]).kvm, KvmBacking::Unknown);
        assert_eq!(host(&[GUEST, KVM, PVM]).kvm, KvmBacking::Pvm);
        assert_eq!(host(&[INTEL, KVM, PVM]).kvm, KvmBacking::Pvm);
        assert_eq!(host(&[INTEL]).kvm, KvmBacking::Absent);
    }

    #[test]
    fn cgroup_versions() {
        let v1 = "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n";
        let v2 = "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(cgroups(v1), Cgroups::V1);
        assert_eq!(cgroups(&format!("{v1}{v2}")), Cgroups::Hybrid);
        assert_eq!(cgroups(v2), Cgroups::V2);
    }
}
