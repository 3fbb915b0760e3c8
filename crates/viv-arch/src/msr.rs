//! Model-specific registers (SDM vol. 4; KVM's from Documentation/virt/kvm/x86/msr.rst).
#![allow(missing_docs, reason = "the SDM's own names")]

pub const IA32_TSC: u32 = 0x10;
pub const IA32_PLATFORM_ID: u32 = 0x17;
pub const IA32_APIC_BASE: u32 = 0x1b;
pub const IA32_FEATURE_CONTROL: u32 = 0x3a;
pub const IA32_TSC_ADJUST: u32 = 0x3b;
pub const IA32_SPEC_CTRL: u32 = 0x48;
pub const IA32_PRED_CMD: u32 = 0x49;
pub const IA32_BIOS_UPDT_TRIG: u32 = 0x79;
pub const IA32_BIOS_SIGN_ID: u32 = 0x8b;
pub const PLATFORM_INFO: u32 = 0xce;
pub const IA32_MTRRCAP: u32 = 0xfe;
pub const IA32_ARCH_CAPABILITIES: u32 = 0x10a;
pub const IA32_FLUSH_CMD: u32 = 0x10b;
pub const MISC_FEATURE_ENABLES: u32 = 0x140;
pub const IA32_SYSENTER_CS: u32 = 0x174;
pub const IA32_SYSENTER_ESP: u32 = 0x175;
pub const IA32_SYSENTER_EIP: u32 = 0x176;
pub const IA32_MCG_CAP: u32 = 0x179;
pub const IA32_MCG_STATUS: u32 = 0x17a;
pub const IA32_MCG_CTL: u32 = 0x17b;
pub const IA32_MISC_ENABLE: u32 = 0x1a0;
pub const IA32_DEBUGCTL: u32 = 0x1d9;
pub const IA32_MTRR_PHYSBASE0: u32 = 0x200;
pub const IA32_MTRR_PHYSMASK7: u32 = 0x20f;
pub const IA32_MTRR_FIX64K: u32 = 0x250;
pub const IA32_MTRR_FIX16K_80000: u32 = 0x258;
pub const IA32_MTRR_FIX16K_A0000: u32 = 0x259;
pub const IA32_MTRR_FIX4K_C0000: u32 = 0x268;
pub const IA32_MTRR_FIX4K_F8000: u32 = 0x26f;
pub const IA32_PAT: u32 = 0x277;
pub const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
pub const IA32_MC0_CTL: u32 = 0x400;
pub const IA32_TSC_DEADLINE: u32 = 0x6e0;
pub const IA32_X2APIC_BASE: u32 = 0x800;
pub const IA32_X2APIC_END: u32 = 0x8ff;
pub const IA32_XSS: u32 = 0xda0;

pub const IA32_EFER: u32 = 0xc000_0080;
pub const IA32_STAR: u32 = 0xc000_0081;
pub const IA32_LSTAR: u32 = 0xc000_0082;
pub const IA32_CSTAR: u32 = 0xc000_0083;
pub const IA32_FMASK: u32 = 0xc000_0084;
pub const IA32_FS_BASE: u32 = 0xc000_0100;
pub const IA32_GS_BASE: u32 = 0xc000_0101;
pub const IA32_KERNEL_GS_BASE: u32 = 0xc000_0102;
pub const IA32_TSC_AUX: u32 = 0xc000_0103;

pub const KVM_WALL_CLOCK_OLD: u32 = 0x11;
pub const KVM_SYSTEM_TIME_OLD: u32 = 0x12;
pub const KVM_WALL_CLOCK: u32 = 0x4b56_4d00;
pub const KVM_SYSTEM_TIME: u32 = 0x4b56_4d01;
pub const KVM_STEAL_TIME: u32 = 0x4b56_4d03;
pub const KVM_PV_EOI_EN: u32 = 0x4b56_4d04;
pub const KVM_POLL_CONTROL: u32 = 0x4b56_4d05;

/// The fixed-range MTRRs in order.
pub const MTRR_FIXED: [u32; 11] = [
    IA32_MTRR_FIX64K,
    IA32_MTRR_FIX16K_80000,
    IA32_MTRR_FIX16K_A0000,
    IA32_MTRR_FIX4K_C0000,
    0x269,
    0x26a,
    0x26b,
    0x26c,
    0x26d,
    0x26e,
    IA32_MTRR_FIX4K_F8000,
];

/// The MSRs that are state and nothing else, the MTRRs not among them.
const PLAIN: [u32; 20] = [
    IA32_FEATURE_CONTROL,
    IA32_TSC_ADJUST,
    IA32_SPEC_CTRL,
    IA32_SYSENTER_CS,
    IA32_SYSENTER_ESP,
    IA32_SYSENTER_EIP,
    IA32_MCG_STATUS,
    IA32_MISC_ENABLE,
    IA32_DEBUGCTL,
    IA32_PAT,
    IA32_MTRR_DEF_TYPE,
    IA32_STAR,
    IA32_LSTAR,
    IA32_CSTAR,
    IA32_FMASK,
    IA32_KERNEL_GS_BASE,
    IA32_TSC_AUX,
    KVM_WALL_CLOCK,
    KVM_SYSTEM_TIME,
    KVM_STEAL_TIME,
];

/// The numbers of all MSRs that are state and nothing else: what is written is what is read, and a saved vCPU has them.
pub fn plain() -> impl Iterator<Item = u32> {
    PLAIN.into_iter().chain(IA32_MTRR_PHYSBASE0..=IA32_MTRR_PHYSMASK7).chain(MTRR_FIXED)
}
