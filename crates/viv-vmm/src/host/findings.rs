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
    Ok,
    /// It is there, with a catch.
    Warn,
    /// It is not there.
    Absent,
}

impl fmt::Display for FindingStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Absent => "absent",
        })
    }
}

use FindingStatus::{Absent, Ok, Warn};

impl Finding {
    fn new(
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
        Finding::new("processor", Ok, value, None)
    }

    fn extension_finding(&self) -> Finding {
        let (status, value, advice) = match self.extension {
            Some("svm") => (Ok, "svm (AMD-V)", None),
            Some(_) => (Ok, "vmx (VT-x)", None),
            None if self.hypervisor => (
                Absent,
                "neither vmx nor svm",
                Some("turn on nested virtualization where this machine runs, or use the software engine"),
            ),
            None => (
                Absent,
                "neither vmx nor svm",
                Some("turn on virtualization in the firmware's setup, or use the software engine"),
            ),
        };
        Finding::new("virtualization", status, value, advice)
    }

    fn nested_paging_finding(&self) -> Finding {
        match self.nested_paging {
            Some(name) => Finding::new("nested-paging", Ok, name, None),
            None => Finding::new("nested-paging", Absent, "neither ept nor npt", None),
        }
    }

    fn kvm_finding(&self) -> Finding {
        let (status, value, advice) = match self.kvm {
            KvmBacking::Absent if self.extension.is_some() => {
                (Absent, "no /dev/kvm", Some("load kvm_intel or kvm_amd: the processor has what it needs"))
            }
            KvmBacking::Absent => (Absent, "no /dev/kvm", None),
            KvmBacking::Hardware { accessible: true } => (Ok, "/dev/kvm, on hardware", None),
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
            Some(true) => Finding::new("nested-virtualization", Ok, "offered to guests", None),
            Some(false) => Finding::new(
                "nested-virtualization",
                Absent,
                "off",
                Some("load kvm_intel or kvm_amd with nested=1 if guests are to run guests"),
            ),
            None => Finding::new("nested-virtualization", Absent, "not offered", None),
        }
    }

    fn memory_finding(&self) -> Finding {
        Finding::new("memory", Ok, format!("{} MiB with swap", self.memory >> 20), None)
    }

    fn huge_pages_finding(&self) -> Finding {
        let mode = self.transparent_huge_pages.as_deref().unwrap_or("absent");
        let (status, advice) = match mode {
            "always" | "madvise" => (Ok, None),
            "never" => {
                (Warn, Some("write madvise to /sys/kernel/mm/transparent_hugepage/enabled for faster guests"))
            }
            _ => (Absent, None),
        };
        let value = format!("transparent: {mode}, {} reserved", self.reserved_huge_pages);
        Finding::new("huge-pages", status, value, advice)
    }

    fn cgroups_finding(&self) -> Finding {
        let (status, value, advice) = match self.cgroups {
            Cgroups::V2 => (Ok, "v2", None),
            Cgroups::Hybrid => (Ok, "hybrid: v1 with v2 beside it", None),
            Cgroups::V1 => (Ok, "v1", None),
            Cgroups::Absent => {
                (Absent, "none mounted", Some("guests' processor and memory shares need them"))
            }
        };
        Finding::new("cgroups", status, value, advice)
    }

    fn user_namespaces_finding(&self) -> Finding {
        let (status, value, advice) = match self.user_namespaces {
            UserNamespaces::Everybody => (Ok, "for everybody", None),
            UserNamespaces::Privileged => {
                (Warn, "for root alone", Some("without root, images cannot be built nor VM processes jailed"))
            }
            UserNamespaces::Absent => {
                (Absent, "none", Some("write a number to /proc/sys/user/max_user_namespaces to allow them"))
            }
        };
        Finding::new("user-namespaces", status, value, advice)
    }

    fn iommu_finding(&self) -> Finding {
        match self.iommu_groups {
            0 => Finding::new(
                "iommu",
                Absent,
                "no groups",
                Some("needed only to hand the host's PCI devices to guests"),
            ),
            groups => Finding::new("iommu", Ok, format!("{groups} groups"), None),
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
        assert_eq!(finding(&[INTEL, KVM], "kvm").status, Ok);
        assert!(finding(&[INTEL], "kvm").advice.unwrap().contains("load kvm_intel"));
    }

    #[test]
    fn advice_on_a_missing_extension_depends_on_where_it_is_missing() {
        assert!(finding(&[GUEST], "virtualization").advice.unwrap().contains("nested"));
        assert!(finding(&[], "virtualization").advice.unwrap().contains("firmware"));
    }

    #[test]
    fn findings_are_readable_by_programs() {
        let json = serde_json::to_value(finding(&[], "iommu")).unwrap();
        assert_eq!(json["status"], "absent");
        assert_eq!(json["value"], "no groups");
    }
}
