//! What the facts mean to a user.

use std::fmt;

use serde::Serialize;

use super::facts::{Cgroups, HostFacts, KvmBacking, UserNamespaces};

/// One thing about the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is about, in a stable spelling.
    pub name: &'static str,
    /// Whether it is as guests would like it.
    pub status: FindingStatus,
    /// What was found.
    pub value: String,
    /// What to do about it, or what follows from it.
    pub advice: Option<&'static str>,
}

/// Whether something is as guests would like it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FindingStatus {
    /// It is.
    Pass,
    /// Guests run without it, with less than there could be.
    Warn,
    /// Guests do not run without it.
    Fail,
}

impl fmt::Display for FindingStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "fail",
        })
    }
}

use FindingStatus::{Pass, Warn};

impl Finding {
    /// A finding.
    #[must_use]
    pub fn new(
        name: &'static str,
        status: FindingStatus,
        value: impl Into<String>,
        advice: Option<&'static str>,
    ) -> Self {
        Self { name, status, value: value.into(), advice }
    }
}

impl HostFacts {
    /// The facts as a list, in a fixed order.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        vec![
            self.processor_finding(),
            self.extension_finding(),
            self.nested_paging_finding(),
            self.module_finding(),
            self.kvm_finding(),
            self.nested_finding(),
            self.memory_finding(),
            self.huge_pages_finding(),
            self.cgroups_finding(),
            self.user_namespaces_finding(),
            self.iommu_finding(),
        ]
    }

    fn processor_finding(&self) -> Finding {
        let name = self.processor.as_deref().unwrap_or("unknown");
        let value = if self.hypervisor { format!("{name} (in a virtual machine)") } else { name.into() };
        Finding::new("processor", Pass, value, None)
    }

    fn extension_finding(&self) -> Finding {
        let (status, value, advice) = match self.extension {
            Some("svm") => (Pass, "svm (AMD-V)", None),
            Some(_) => (Pass, "vmx (VT-x)", None),
            None if self.hypervisor => (
                Warn,
                "neither vmx nor svm",
                Some("turn on nested virtualization where this machine runs, or use the software engine"),
            ),
            None => (
                Warn,
                "neither vmx nor svm",
                Some("turn on virtualization in the firmware's setup, or use the software engine"),
            ),
        };
        Finding::new("virtualization", status, value, advice)
    }

    fn nested_paging_finding(&self) -> Finding {
        match self.nested_paging {
            Some(name) => Finding::new("nested-paging", Pass, name, None),
            None => Finding::new(
                "nested-paging",
                Warn,
                "neither ept nor npt",
                Some("guests' page tables cost more without; newer processors have it"),
            ),
        }
    }

    fn module_finding(&self) -> Finding {
        match self.module {
            Some(name) => Finding::new("kvm-module", Pass, name, None),
            None => {
                let advice = if self.extension == Some("svm") {
                    "run modprobe kvm_amd"
                } else if self.extension.is_some() {
                    "run modprobe kvm_intel"
                } else {
                    "there is none for this processor"
                };
                Finding::new("kvm-module", Warn, "none loaded", Some(advice))
            }
        }
    }

    fn kvm_finding(&self) -> Finding {
        let (status, value, advice) = match self.kvm {
            KvmBacking::Absent if self.extension.is_some() => {
                (Warn, "no /dev/kvm", Some("load kvm_intel or kvm_amd: the processor has what it needs"))
            }
            KvmBacking::Absent => {
                (Warn, "no /dev/kvm", Some("guests run, more slowly, on the software engine"))
            }
            KvmBacking::Hardware { accessible: true } => (Pass, "/dev/kvm, on hardware", None),
            KvmBacking::Hardware { accessible: false } => {
                (Warn, "/dev/kvm, on hardware, not open to this user", Some("join the group kvm"))
            }
            KvmBacking::Pvm => (
                Warn,
                "/dev/kvm, on kvm_pvm: not backed by hardware",
                Some("guest kernels do not boot on it; the software engine is used"),
            ),
            KvmBacking::Unknown => (
                Warn,
                "/dev/kvm, not backed by hardware",
                Some("the processor shows neither vmx nor svm; the software engine is used"),
            ),
        };
        Finding::new("kvm", status, value, advice)
    }

    fn nested_finding(&self) -> Finding {
        match self.nested {
            Some(true) => Finding::new("nested-virtualization", Pass, "offered to guests", None),
            Some(false) => Finding::new(
                "nested-virtualization",
                Warn,
                "off",
                Some("load kvm_intel or kvm_amd with nested=1 if guests are to run guests"),
            ),
            None => Finding::new(
                "nested-virtualization",
                Warn,
                "not offered",
                Some("guests cannot use KVM; their own guests run on a software CPU"),
            ),
        }
    }

    fn memory_finding(&self) -> Finding {
        Finding::new("memory", Pass, format!("{} MiB with swap", self.memory >> 20), None)
    }

    fn huge_pages_finding(&self) -> Finding {
        let mode = self.transparent_huge_pages.as_deref().unwrap_or("absent");
        let (status, advice) = match mode {
            "always" | "within_size" | "advise" | "force" => (Pass, None),
            "never" | "deny" => (
                Warn,
                Some("write advise to /sys/kernel/mm/transparent_hugepage/shmem_enabled for faster guests"),
            ),
            _ => (Warn, Some("run a kernel with CONFIG_TRANSPARENT_HUGEPAGE for faster guests")),
        };
        let value = format!("transparent: {mode}, {} reserved", self.reserved_huge_pages);
        Finding::new("huge-pages", status, value, advice)
    }

    fn cgroups_finding(&self) -> Finding {
        let (status, value, advice) = match self.cgroups {
            Cgroups::V2 => (Pass, "v2", None),
            Cgroups::Hybrid => (Pass, "hybrid: v1 with v2 beside it", None),
            Cgroups::V1 => (Pass, "v1", None),
            Cgroups::Absent => (
                Warn,
                "none mounted",
                Some("mount cgroup2 at /sys/fs/cgroup for guests' shares of processors and memory"),
            ),
        };
        Finding::new("cgroups", status, value, advice)
    }

    fn user_namespaces_finding(&self) -> Finding {
        let (status, value, advice) = match self.user_namespaces {
            UserNamespaces::Everybody => (Pass, "for everybody", None),
            UserNamespaces::Privileged => {
                (Warn, "for root alone", Some("without root, images cannot be built nor VM processes jailed"))
            }
            UserNamespaces::Absent => {
                (Warn, "none", Some("write a number to /proc/sys/user/max_user_namespaces to allow them"))
            }
        };
        Finding::new("user-namespaces", status, value, advice)
    }

    fn iommu_finding(&self) -> Finding {
        match self.iommu_groups {
            0 => Finding::new(
                "iommu",
                Warn,
                "no groups",
                Some("needed only to hand PCI devices to guests: turn it on in the firmware's setup"),
            ),
            groups => Finding::new("iommu", Pass, format!("{groups} groups"), None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::tests::{GUEST, INTEL, KVM, PVM, host};
    use super::*;

    fn finding(files: &[(&str, &str)], name: &str) -> Finding {
        host(files).findings().into_iter().find(|finding| finding.name == name).unwrap()
    }

    #[test]
    fn kvm_without_hardware_is_named_as_such() {
        let found = finding(&[GUEST, KVM, PVM], "kvm");
        assert_eq!(found.status, Warn);
        assert!(found.value.contains("kvm_pvm") && found.value.contains("not backed by hardware"));
        assert_eq!(finding(&[INTEL, KVM], "kvm").status, Pass);
        assert!(finding(&[INTEL], "kvm").advice.unwrap().contains("load kvm_intel"));
    }

    #[test]
    fn advice_on_a_missing_extension_depends_on_where_it_is_missing() {
        assert!(finding(&[GUEST], "virtualization").advice.unwrap().contains("nested"));
        assert!(finding(&[], "virtualization").advice.unwrap().contains("firmware"));
    }

    #[test]
    fn whatever_is_not_as_it_should_be_comes_with_advice() {
        for files in [&[][..], &[GUEST, KVM, PVM], &[INTEL, KVM]] {
            let findings = host(files).findings();
            assert!(
                findings.iter().all(|found| (found.status == Pass) == found.advice.is_none()),
                "{findings:?}"
            );
        }
    }

    #[test]
    fn findings_are_readable_by_programs() {
        let json = serde_json::to_value(finding(&[], "iommu")).unwrap();
        assert_eq!(json["status"], "warn");
        assert_eq!(json["value"], "no groups");
    }
}
