//! The machine's processor model as KVM can have it.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use viv_arch::{CpuidLeaf, CpuidTable};

/// Leaf 1, ECX: the local APIC's timer has the TSC-deadline mode.
const TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1, ECX: there is a hypervisor.
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, EDX: several processors in a package.
const HTT: u32 = 1 << 28;
/// Leaf 7, EDX: there is IA32_ARCH_CAPABILITIES.
const ARCH_CAPABILITIES: u32 = 1 << 29;

/// What a KVM offers to guests.
#[derive(Debug, Clone)]
pub(crate) struct Offer {
    /// KVM_GET_SUPPORTED_CPUID.
    pub(crate) entries: Vec<kvm_cpuid_entry2>,
    /// Whether local APICs have the TSC-deadline mode, which the entries do not say.
    pub(crate) tsc_deadline: bool,
    /// Whether guests can read IA32_ARCH_CAPABILITIES, whatever the entries say.
    pub(crate) arch_capabilities: bool,
}

impl Offer {
    /// What of `wanted` there can be: features that KVM lacks are left out.
    pub(crate) fn limit(&self, wanted: &CpuidTable) -> CpuidTable {
        let mut limited = CpuidTable::default();
        for (function, index, leaf) in wanted.rows() {
            limited.set(function, index, self.limit_leaf(function, index.unwrap_or(0), leaf));
        }
        limited
    }

    fn limit_leaf(&self, function: u32, index: u32, leaf: CpuidLeaf) -> CpuidLeaf {
        let host = self.find(function, index);
        match (function, index) {
            (1, _) => {
                let deadline = if self.tsc_deadline { TSC_DEADLINE } else { 0 };
                CpuidLeaf {
                    ecx: leaf.ecx & (host.ecx | deadline | HYPERVISOR),
                    edx: leaf.edx & (host.edx | HTT),
                    ..leaf
                }
            }
            (7, 0) => {
                let hidden = if self.arch_capabilities { 0 } else { ARCH_CAPABILITIES };
                CpuidLeaf {
                    eax: leaf.eax.min(host.eax),
                    ebx: leaf.ebx & host.ebx,
                    ecx: leaf.ecx & host.ecx,
                    edx: leaf.edx & host.edx & !hidden,
                }
            }
            (7 | 0x4000_0001, _) => all_registers(leaf, host),
            // Which states there are, and which instructions for them; the rest are sizes.
            (0xd, 0 | 1) => CpuidLeaf { eax: leaf.eax & host.eax, ..leaf },
            (0x8000_0001, _) => CpuidLeaf { ecx: leaf.ecx & host.ecx, edx: leaf.edx & host.edx, ..leaf },
            (0x8000_0007, _) => CpuidLeaf { edx: leaf.edx & host.edx, ..leaf },
            (0x8000_0008, _) => {
                // No more address bits than there are.
                let bits = |shift: u32| ((leaf.eax >> shift) & 0xff).min((host.eax >> shift) & 0xff) << shift;
                CpuidLeaf { eax: bits(0) | bits(8), ..leaf }
            }
            _ => leaf,
        }
    }

    fn find(&self, function: u32, index: u32) -> CpuidLeaf {
        let entry = self.entries.iter().find(|entry| (entry.function, entry.index) == (function, index));
        entry.map_or_else(CpuidLeaf::default, |entry| CpuidLeaf {
            eax: entry.eax,
            ebx: entry.ebx,
            ecx: entry.ecx,
            edx: entry.edx,
        })
    }
}

const fn all_registers(leaf: CpuidLeaf, host: CpuidLeaf) -> CpuidLeaf {
    CpuidLeaf {
        eax: leaf.eax & host.eax,
        ebx: leaf.ebx & host.ebx,
        ecx: leaf.ecx & host.ecx,
        edx: leaf.edx & host.edx,
    }
}

/// The table in KVM's form, for the vCPU with local APIC id `id`.
pub(crate) fn entries(table: &CpuidTable, id: u32) -> Option<CpuId> {
    let entries: Vec<kvm_cpuid_entry2> = table
        .rows()
        .map(|(function, index, mut leaf)| {
            match function {
                1 => leaf.ebx |= id << 24,
                0xb => leaf.edx = id,
                _ => {}
            }
            kvm_cpuid_entry2 {
                function,
                index: index.unwrap_or(0),
                flags: if index.is_some() { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 },
                eax: leaf.eax,
                ebx: leaf.ebx,
                ecx: leaf.ecx,
                edx: leaf.edx,
                ..kvm_cpuid_entry2::default()
            }
        })
        .collect();
    CpuId::from_entries(&entries).ok()
}

#[cfg(test)]
mod tests {
    use viv_arch::cpuid::ModelParameters;

    use super::*;

    fn table() -> CpuidTable {
        CpuidTable::x86_64_v3(ModelParameters { vcpus: 2, tsc_khz: 2_000_000 })
    }

    fn offer(entries: Vec<kvm_cpuid_entry2>) -> Offer {
        Offer { entries, tsc_deadline: true, arch_capabilities: true }
    }

    #[test]
    fn what_kvm_has_is_kept_and_nothing_added() {
        let all = table()
            .rows()
            .map(|(function, index, _)| kvm_cpuid_entry2 {
                function,
                index: index.unwrap_or(0),
                eax: u32::MAX,
                ebx: u32::MAX,
                ecx: u32::MAX,
                edx: u32::MAX,
                ..kvm_cpuid_entry2::default()
            })
            .collect();
        assert_eq!(offer(all).limit(&table()), table());
    }

    #[test]
    fn what_kvm_lacks_is_left_out() {
        let sse3 = kvm_cpuid_entry2 { function: 1, ecx: 1, ..kvm_cpuid_entry2::default() };
        let limited = offer(vec![sse3]).limit(&table());
        assert_eq!(limited.get(1, 0).ecx, 1 | TSC_DEADLINE | HYPERVISOR);
        assert_eq!(limited.get(1, 0).edx, HTT);
        assert_eq!(limited.get(7, 0), CpuidLeaf::default());
        assert_eq!(limited.get(0x4000_0000, 0), table().get(0x4000_0000, 0));
    }

    #[test]
    fn each_vcpu_has_its_own_id() {
        let entries = entries(&table(), 3).unwrap();
        let find = |function| *entries.as_slice().iter().find(|entry| entry.function == function).unwrap();
        assert_eq!(find(1).ebx >> 24, 3);
        assert_eq!(find(0xb).edx, 3);
    }
}
