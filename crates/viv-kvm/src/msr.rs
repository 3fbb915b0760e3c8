//! Which MSRs guests have. They are those of the software engine, so that a machine finds them on either: KVM is told to
//! let through no other, and those that it would answer in its own way are answered here.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::{MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VcpuFd, VmFd};
use viv_arch::msr;
use viv_engine::EngineError;

use crate::error;

/// The microcode revision shown: the newest there can be, so that no guest tries to update it.
const MICROCODE: u64 = 0xffff_ffff << 32;

/// MSRs that guests reach in KVM besides, and which are no state, or state of another kind.
const REACHED: [u32; 11] = [
    msr::IA32_TSC,
    msr::IA32_APIC_BASE,
    msr::IA32_EFER,
    msr::IA32_FS_BASE,
    msr::IA32_GS_BASE,
    msr::IA32_ARCH_CAPABILITIES,
    msr::IA32_MTRRCAP,
    msr::IA32_PRED_CMD,
    msr::IA32_FLUSH_CMD,
    msr::KVM_WALL_CLOCK_OLD,
    msr::KVM_SYSTEM_TIME_OLD,
];

/// The numbers of all that travel by number and value. IA32_APIC_BASE, which is among the system registers for KVM,
/// travels so as well.
pub(crate) fn saved() -> impl Iterator<Item = u32> {
    msr::plain().chain([msr::IA32_TSC_DEADLINE])
}

/// Reads an MSR as the host's program does; `None` if this KVM does not have it.
pub(crate) fn read(vcpu: &VcpuFd, number: u32) -> Option<u64> {
    let entry = kvm_msr_entry { index: number, ..kvm_msr_entry::default() };
    let mut msrs = Msrs::from_entries(&[entry]).ok()?;
    (vcpu.get_msrs(&mut msrs).ok()? == 1).then(|| msrs.as_slice().first().map(|entry| entry.data))?
}

/// Reads the MSRs named in `known`, which this KVM has, as (number, value).
pub(crate) fn read_all(vcpu: &VcpuFd, known: &[(u32, u64)]) -> Result<Vec<(u32, u64)>, EngineError> {
    const ACTION: &str = "read the MSRs of a vCPU";
    let entries: Vec<_> =
        known.iter().map(|&(index, _)| kvm_msr_entry { index, ..kvm_msr_entry::default() }).collect();
    let mut msrs = Msrs::from_entries(&entries).map_err(|_| error::invalid(ACTION, "too many MSRs"))?;
    let count = vcpu.get_msrs(&mut msrs).map_err(error::host(ACTION))?;
    if let Some((number, _)) = known.get(count) {
        return Err(error::invalid(ACTION, &format!("it refuses MSR {number:#x}")));
    }
    Ok(msrs.as_slice().iter().map(|entry| (entry.index, entry.data)).collect())
}

/// Writes an MSR as the host's program does; says whether KVM took it.
pub(crate) fn write(vcpu: &VcpuFd, number: u32, value: u64) -> Result<bool, EngineError> {
    const ACTION: &str = "write an MSR of a vCPU";
    let entry = kvm_msr_entry { index: number, data: value, ..kvm_msr_entry::default() };
    let msrs = Msrs::from_entries(&[entry]).map_err(|_| error::invalid(ACTION, "too many MSRs"))?;
    Ok(vcpu.set_msrs(&msrs).map_err(error::host(ACTION))? == 1)
}

/// Lets guests reach the MSRs that they are to have, and has accesses to others end KVM_RUN.
pub(crate) fn filter(vm: &VmFd) -> Result<(), EngineError> {
    const BASES: [u32; 4] = [0, 0x2000, 0x4b56_4d00, 0xc000_0000];
    const COUNT: u32 = 0x2000;
    let reached: Vec<u32> = saved().chain(REACHED).collect();
    let bitmaps = BASES.map(|base| {
        let mut bitmap = vec![0; COUNT as usize / 8];
        for offset in reached.iter().map(|number| number.wrapping_sub(base)).filter(|&offset| offset < COUNT)
        {
            if let Some(byte) = bitmap.get_mut(offset as usize / 8) {
                *byte |= 1 << (offset % 8);
            }
        }
        bitmap
    });
    let ranges: Vec<_> = BASES
        .iter()
        .zip(&bitmaps)
        .map(|(&base, bitmap)| MsrFilterRange {
            flags: MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE,
            base,
            msr_count: COUNT,
            bitmap,
        })
        .collect();
    vm.set_msr_filter(MsrFilterDefaultAction::DENY, &ranges).map_err(error::host("filter the guest's MSRs"))
}

/// What a guest reads from an MSR that KVM does not answer; `None` is #GP.
pub(crate) fn guest_read(number: u32) -> Option<u64> {
    match number {
        msr::IA32_BIOS_SIGN_ID => Some(MICROCODE),
        msr::IA32_PLATFORM_ID
        | msr::PLATFORM_INFO
        | msr::MISC_FEATURE_ENABLES
        | msr::IA32_MCG_CAP
        | msr::IA32_MCG_CTL => Some(0),
        _ => {
            tracing::debug!(msr = format_args!("{number:#x}"), "read of an unknown MSR");
            None
        }
    }
}

/// Whether a guest's write of an MSR that KVM does not take does nothing; otherwise it is #GP.
pub(crate) fn guest_write(number: u32, value: u64) -> bool {
    let taken = matches!(
        number,
        msr::IA32_BIOS_UPDT_TRIG | msr::IA32_BIOS_SIGN_ID | msr::MISC_FEATURE_ENABLES | msr::IA32_MCG_CTL
    );
    if !taken {
        tracing::debug!(
            msr = format_args!("{number:#x}"),
            value = format_args!("{value:#x}"),
            "write of an unknown MSR"
        );
    }
    taken
}
