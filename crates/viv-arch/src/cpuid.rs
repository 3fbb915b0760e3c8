//! The CPUID model that a guest is offered (SDM vol. 2, CPUID; KVM's leaves from
//! Documentation/virt/kvm/x86/cpuid.rst).

use std::arch::x86_64::__cpuid_count;

use serde::{Deserialize, Serialize};

use crate::xsave;

/// The four registers that CPUID returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the registers' own names")]
pub struct CpuidLeaf {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// One row of a [`CpuidTable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Row {
    function: u32,
    /// `None` where the leaf has no subleaves.
    index: Option<u32>,
    leaf: CpuidLeaf,
}

/// What CPUID answers, for every vCPU of a machine but for the parts that depend on the vCPU or its state.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CpuidTable {
    rows: Vec<Row>,
}

/// Bits of leaf 1, ECX.
mod leaf1_ecx {
    pub const MONITOR: u32 = 1 << 3;
    pub const X2APIC: u32 = 1 << 21;
    pub const TSC_DEADLINE: u32 = 1 << 24;
    pub const OSXSAVE: u32 = 1 << 27;
    pub const HYPERVISOR: u32 = 1 << 31;
    /// SSE3, PCLMULQDQ, SSSE3, FMA, CX16, SSE4.1, SSE4.2, MOVBE, POPCNT, AES, XSAVE, AVX, F16C, RDRAND.
    pub const FROM_HOST: u32 = (1 << 0)
        | (1 << 1)
        | (1 << 9)
        | (1 << 12)
        | (1 << 13)
        | (1 << 19)
        | (1 << 20)
        | (1 << 22)
        | (1 << 23)
        | (1 << 25)
        | (1 << 26)
        | (1 << 28)
        | (1 << 29)
        | (1 << 30);
    pub const PCID: u32 = 1 << 17;
}

/// Leaf 1, EDX: FPU, VME, DE, PSE, TSC, MSR, PAE, MCE, CX8, APIC, SEP, MTRR, PGE, MCA, CMOV, PAT, PSE36, CLFSH,
/// MMX, FXSR, SSE, SSE2, SS.
const LEAF1_EDX: u32 = 0x0f8b_fbff;

mod leaf7 {
    pub const FSGSBASE: u32 = 1 << 0;
    pub const TSC_ADJUST: u32 = 1 << 1;
    pub const SMEP: u32 = 1 << 7;
    pub const ERMS: u32 = 1 << 9;
    pub const INVPCID: u32 = 1 << 10;
    pub const FDP_ONLY: u32 = 1 << 6;
    pub const NO_FCS: u32 = 1 << 13;
    pub const SMAP: u32 = 1 << 20;
    /// BMI1, AVX2, BMI2, RDSEED, ADX, SHA.
    pub const EBX_FROM_HOST: u32 = (1 << 3) | (1 << 5) | (1 << 8) | (1 << 18) | (1 << 19) | (1 << 29);
    pub const UMIP: u32 = 1 << 2;
    /// RDPID.
    pub const ECX_OWN: u32 = 1 << 22;
    /// FSRM.
    pub const EDX_FSRM: u32 = 1 << 4;
    /// Subleaf 2: IA32_SPEC_CTRL.BHI_DIS_S, without which kernels clear the branch history by a loop in every system
    /// call, whatever IA32_ARCH_CAPABILITIES says.
    pub const EDX2_BHI_CTRL: u32 = 1 << 4;
    /// IBRS and IBPB, STIBP, ARCH_CAPABILITIES, SSBD.
    pub const EDX_SPECULATION: u32 = (1 << 26) | (1 << 27) | (1 << 29) | (1 << 31);
}

/// What an engine adds to the model of the processor.
#[derive(Debug, Clone, Copy)]
pub struct ModelParameters {
    /// How many vCPUs the machine has.
    pub vcpus: u32,
    /// Frequency of the guest's TSC, in kHz.
    pub tsc_khz: u32,
}

/// Features of the paravirtual interface (KVM_CPUID_FEATURES).
pub mod kvm {
    /// Delays on port I/O are not needed.
    pub const NOP_IO_DELAY: u32 = 1 << 1;
    /// kvm-clock at the MSRs 0x4b564d00 and 0x4b564d01.
    pub const CLOCKSOURCE2: u32 = 1 << 3;
    /// Steal time at the MSR 0x4b564d03.
    pub const STEAL_TIME: u32 = 1 << 5;
    /// A vCPU in HLT can be woken by another, by the hypercall KVM_HC_KICK_CPU.
    pub const PV_UNHALT: u32 = 1 << 7;
    /// The hypercall KVM_HC_SEND_IPI.
    pub const PV_SEND_IPI: u32 = 1 << 11;
    /// The hypercall KVM_HC_SCHED_YIELD.
    pub const PV_SCHED_YIELD: u32 = 1 << 13;
    /// kvm-clock is stable across vCPUs.
    pub const CLOCKSOURCE_STABLE: u32 = 1 << 24;
}

/// The function that tells them (KVM_CPUID_FEATURES).
const PARAVIRTUAL_FEATURES: u32 = 0x4000_0001;

impl CpuidTable {
    /// The default model: x86-64-v3 with AES, PCLMULQDQ, SHA, RDRAND, RDSEED and ADX, each where the host
    /// has it.
    ///
    /// The processor is presented as one that needs no software mitigation of speculation (see
    /// [`ARCH_CAPABILITIES`]).
    #[must_use]
    pub fn x86_64_v3(parameters: ModelParameters) -> Self {
        let host1 = host(1, 0);
        let host7 = host(7, 0);
        let mut table = Self::default();
        let vendor = host(0, 0);
        table.set(0, None, CpuidLeaf { eax: 0x16, ..vendor });
        let ecx = (host1.ecx & leaf1_ecx::FROM_HOST)
            | leaf1_ecx::PCID
            | leaf1_ecx::X2APIC
            | leaf1_ecx::TSC_DEADLINE
            | leaf1_ecx::HYPERVISOR;
        debug_assert_eq!(ecx & (leaf1_ecx::MONITOR | leaf1_ecx::OSXSAVE), 0);
        let multi = if parameters.vcpus > 1 { 1 << 28 } else { 0 };
        // CLFLUSH line of 64 bytes; the initial APIC id is put in per vCPU.
        let ebx = (8 << 8) | (parameters.vcpus.min(255) << 16);
        table.set(1, None, CpuidLeaf { eax: host1.eax, ebx, ecx, edx: LEAF1_EDX | multi });
        table.set(2, None, CpuidLeaf { eax: 0x00ff_ff01, ..CpuidLeaf::default() });
        // Deterministic cache parameters: 32 KiB L1D, 32 KiB L1I, 2 MiB L2, all private.
        let cores = parameters.vcpus.saturating_sub(1).min(63) << 26;
        table.set(4, Some(0), CpuidLeaf { eax: 0x0000_0121 | cores, ebx: 0x01c0_003f, ecx: 63, edx: 0 });
        table.set(4, Some(1), CpuidLeaf { eax: 0x0000_0122 | cores, ebx: 0x01c0_003f, ecx: 63, edx: 0 });
        table.set(4, Some(2), CpuidLeaf { eax: 0x0000_0143 | cores, ebx: 0x03c0_003f, ecx: 2047, edx: 0 });
        // ARAT: the local APIC timer runs in every sleep state.
        table.set(6, None, CpuidLeaf { eax: 1 << 2, ..CpuidLeaf::default() });
        let ebx = (host7.ebx & leaf7::EBX_FROM_HOST)
            | (host7.ebx & (leaf7::FDP_ONLY | leaf7::NO_FCS))
            | leaf7::FSGSBASE
            | leaf7::TSC_ADJUST
            | leaf7::SMEP
            | leaf7::ERMS
            | leaf7::INVPCID
            | leaf7::SMAP;
        table.set(
            7,
            Some(0),
            CpuidLeaf {
                eax: 2,
                ebx,
                ecx: leaf7::UMIP | leaf7::ECX_OWN,
                edx: leaf7::EDX_FSRM | leaf7::EDX_SPECULATION,
            },
        );
        table.set(7, Some(2), CpuidLeaf { edx: leaf7::EDX2_BHI_CTRL, ..CpuidLeaf::default() });
        // Extended topology: one thread a core, all in one package. EDX is put in per vCPU.
        let shift = parameters.vcpus.next_power_of_two().trailing_zeros();
        table.set(0xb, Some(0), CpuidLeaf { eax: 0, ebx: 1, ecx: 0x100, edx: 0 });
        table.set(0xb, Some(1), CpuidLeaf { eax: shift, ebx: parameters.vcpus, ecx: 0x201, edx: 0 });
        table.set(
            0xd,
            Some(0),
            CpuidLeaf {
                eax: xsave::SUPPORTED as u32,
                ebx: xsave::AREA_SIZE as u32,
                ecx: xsave::AREA_SIZE as u32,
                edx: 0,
            },
        );
        // XSAVEOPT, XSAVEC, XGETBV with ECX = 1.
        table.set(0xd, Some(1), CpuidLeaf { eax: 0b111, ebx: xsave::AREA_SIZE as u32, ecx: 0, edx: 0 });
        table.set(
            0xd,
            Some(2),
            CpuidLeaf { eax: xsave::AVX_SIZE as u32, ebx: xsave::AVX_OFFSET as u32, ecx: 0, edx: 0 },
        );
        table.set_tsc_khz(parameters.tsc_khz);
        table.set(
            0x4000_0000,
            None,
            CpuidLeaf { eax: 0x4000_0010, ebx: 0x4b4d_564b, ecx: 0x564b_4d56, edx: 0x4d },
        );
        let features = kvm::NOP_IO_DELAY
            | kvm::CLOCKSOURCE2
            | kvm::STEAL_TIME
            | kvm::PV_UNHALT
            | kvm::PV_SEND_IPI
            | kvm::PV_SCHED_YIELD
            | kvm::CLOCKSOURCE_STABLE;
        table.set(PARAVIRTUAL_FEATURES, None, CpuidLeaf { eax: features, ..CpuidLeaf::default() });
        let host_ext = host(0x8000_0001, 0);
        table.set(0x8000_0000, None, CpuidLeaf { eax: 0x8000_0008, ..CpuidLeaf::default() });
        table.set(
            0x8000_0001,
            None,
            CpuidLeaf {
                eax: 0,
                ebx: 0,
                // LAHF in long mode, LZCNT, PREFETCHW.
                ecx: 1 | (host_ext.ecx & (1 << 5)) | (1 << 8),
                // SYSCALL, NX, 1 GiB pages, RDTSCP, long mode.
                edx: (1 << 11) | (1 << 20) | (1 << 26) | (1 << 27) | (1 << 29),
            },
        );
        let brand = *b"Vivarium virtual processor (x86-64-v3)\0\0\0\0\0\0\0\0\0\0";
        for (part, function) in (0x8000_0002..=0x8000_0004).enumerate() {
            let word = |n: usize| {
                let at = part * 16 + n * 4;
                u32::from_le_bytes([brand[at], brand[at + 1], brand[at + 2], brand[at + 3]])
            };
            let leaf = CpuidLeaf { eax: word(0), ebx: word(1), ecx: word(2), edx: word(3) };
            table.set(function, None, leaf);
        }
        table.set(0x8000_0006, None, CpuidLeaf { ecx: 0x0800_6040, ..CpuidLeaf::default() });
        // Invariant TSC.
        table.set(0x8000_0007, None, CpuidLeaf { edx: 1 << 8, ..CpuidLeaf::default() });
        table.set_physical_bits(46);
        table
    }

    /// Says that physical addresses have `bits` bits.
    pub fn set_physical_bits(&mut self, bits: u8) {
        const LINEAR_BITS: u32 = 48;
        self.set(
            0x8000_0008,
            None,
            CpuidLeaf { eax: u32::from(bits) | LINEAR_BITS << 8, ..CpuidLeaf::default() },
        );
    }

    /// The bits of physical addresses (MAXPHYADDR); 36 if the table does not say (SDM vol. 2, CPUID).
    #[must_use]
    pub fn physical_bits(&self) -> u32 {
        match self.get(0x8000_0008, 0).eax & 0xff {
            0 => 36,
            bits => bits.min(52),
        }
    }

    /// Says everywhere that the TSC runs at `khz`.
    pub fn set_tsc_khz(&mut self, khz: u32) {
        let mhz = khz / 1000;
        self.set(0x15, None, CpuidLeaf { eax: 1, ebx: mhz.max(1), ecx: 1_000_000, edx: 0 });
        self.set(0x16, None, CpuidLeaf { eax: mhz, ebx: mhz, ecx: 100, edx: 0 });
        self.set(0x4000_0010, None, CpuidLeaf { eax: khz, ebx: 1_000_000, ..CpuidLeaf::default() });
    }

    /// Sets the answer to a function, or to a subleaf of it.
    pub fn set(&mut self, function: u32, index: Option<u32>, leaf: CpuidLeaf) {
        match self.rows.iter_mut().find(|row| (row.function, row.index) == (function, index)) {
            Some(row) => row.leaf = leaf,
            None => self.rows.push(Row { function, index, leaf }),
        }
    }

    /// All answers: function, subleaf where it has any, registers.
    pub fn rows(&self) -> impl Iterator<Item = (u32, Option<u32>, CpuidLeaf)> + '_ {
        self.rows.iter().map(|row| (row.function, row.index, row.leaf))
    }

    /// The same without the paravirtual features that `other` does not have. A guest that does not know of one is not
    /// affected by it.
    #[must_use]
    pub fn with_paravirtual_features_of(mut self, other: &Self) -> Self {
        let features = other.get(PARAVIRTUAL_FEATURES, 0).eax;
        for row in self.rows.iter_mut().filter(|row| row.function == PARAVIRTUAL_FEATURES) {
            row.leaf.eax &= features;
        }
        self
    }

    /// The answer to CPUID with EAX = `function` and ECX = `index`.
    ///
    /// Functions beyond the highest answer like the highest basic one, as Intel processors do.
    #[must_use]
    pub fn get(&self, function: u32, index: u32) -> CpuidLeaf {
        let find = |function: u32| {
            self.rows
                .iter()
                .find(|row| row.function == function && row.index.is_none_or(|i| i == index))
                .map(|row| row.leaf)
        };
        let range = function & 0xf000_0000;
        let highest = find(range).map_or(0, |leaf| leaf.eax);
        let function = if (range == 0 || range == 0x8000_0000) && function > highest {
            find(0).map_or(0, |leaf| leaf.eax)
        } else {
            function
        };
        find(function).unwrap_or_default()
    }
}

/// IA32_ARCH_CAPABILITIES for guests: RDCL_NO, IBRS_ALL, SKIP_L1DFL_VMENTRY, MDS_NO, PSCHANGE_MC_NO, TAA_NO,
/// SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO, ITS_NO.
pub const ARCH_CAPABILITIES: u64 = 1
    | (1 << 1)
    | (1 << 3)
    | (1 << 4)
    | (1 << 5)
    | (1 << 6)
    | (1 << 8)
    | (1 << 13)
    | (1 << 14)
    | (1 << 15)
    | (1 << 20)
    | (1 << 24)
    | (1 << 26)
    | (1 << 27)
    | (1 << 62);

/// What the host's own CPUID answers.
#[must_use]
pub fn host(function: u32, index: u32) -> CpuidLeaf {
    let answer = __cpuid_count(function, index);
    CpuidLeaf { eax: answer.eax, ebx: answer.ebx, ecx: answer.ecx, edx: answer.edx }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_highest_leaf_answers_like_the_highest() {
        let table = CpuidTable::x86_64_v3(ModelParameters { vcpus: 1, tsc_khz: 2_000_000 });
        assert_eq!(table.get(0x1234, 0), table.get(0x16, 0));
        assert_eq!(table.get(0x8000_1234, 0), table.get(0x16, 0));
    }

    #[test]
    fn names_the_paravirtual_interface() {
        let table = CpuidTable::x86_64_v3(ModelParameters { vcpus: 1, tsc_khz: 2_000_000 });
        let leaf = table.get(0x4000_0000, 0);
        let name: Vec<u8> = [leaf.ebx, leaf.ecx, leaf.edx].iter().flat_map(|r| r.to_le_bytes()).collect();
        assert_eq!(&name[..9], b"KVMKVMKVM");
    }
}
