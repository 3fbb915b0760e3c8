//! Model-specific registers.

use viv_arch::cpuid::ARCH_CAPABILITIES;
use viv_arch::{Cr0, Efer, SegmentRegister, msr, paging};

use crate::cpu::{Cpu, Exec, Fault};
use crate::pvclock::{self, Scale, Update};
use crate::steal;

/// The MSRs that are plain state.
#[derive(Debug, Clone, Default)]
pub struct Msrs {
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub fmask: u64,
    pub kernel_gs_base: u64,
    pub tsc_aux: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub pat: u64,
    pub spec_ctrl: u64,
    pub misc_enable: u64,
    pub feature_control: u64,
    pub debugctl: u64,
    pub tsc_adjust: u64,
    pub mcg_status: u64,
    pub mtrr_def_type: u64,
    pub mtrr_fixed: [u64; 11],
    pub mtrr_variable: [u64; 16],
    pub kvm_wall_clock: u64,
    pub kvm_system_time: u64,
    pub kvm_steal_time: u64,
}

/// PAT after reset (SDM vol. 3, 12.12.4).
const PAT_RESET: u64 = 0x0007_0406_0007_0406;
/// IA32_MISC_ENABLE: fast strings, and no performance counters to speak of (BTS, PEBS unavailable).
const MISC_ENABLE_RESET: u64 = 1 | (1 << 11) | (1 << 12);
/// How many variable-range MTRRs there are, with fixed ranges and write-combining.
const MTRRCAP: u64 = 8 | (1 << 8) | (1 << 10);
/// The microcode revision shown: the newest there can be, so that no guest tries to update it.
const MICROCODE: u64 = 0xffff_ffff << 32;

/// IA32_SPEC_CTRL: IBRS, STIBP, SSBD, BHI_DIS_S.
const SPEC_CTRL_VALID: u64 = 1 << 10 | 0b111;

impl Msrs {
    pub fn reset() -> Self {
        Self { pat: PAT_RESET, misc_enable: MISC_ENABLE_RESET, ..Self::default() }
    }

    /// Those that travel in a saved state by number and value and need no more than that.
    fn plain(&mut self, number: u32) -> Option<&mut u64> {
        Some(match number {
            msr::IA32_STAR => &mut self.star,
            msr::IA32_LSTAR => &mut self.lstar,
            msr::IA32_CSTAR => &mut self.cstar,
            msr::IA32_FMASK => &mut self.fmask,
            msr::IA32_KERNEL_GS_BASE => &mut self.kernel_gs_base,
            msr::IA32_TSC_AUX => &mut self.tsc_aux,
            msr::IA32_SYSENTER_CS => &mut self.sysenter_cs,
            msr::IA32_SYSENTER_ESP => &mut self.sysenter_esp,
            msr::IA32_SYSENTER_EIP => &mut self.sysenter_eip,
            msr::IA32_PAT => &mut self.pat,
            msr::IA32_SPEC_CTRL => &mut self.spec_ctrl,
            msr::IA32_MISC_ENABLE => &mut self.misc_enable,
            msr::IA32_FEATURE_CONTROL => &mut self.feature_control,
            msr::IA32_DEBUGCTL => &mut self.debugctl,
            msr::IA32_TSC_ADJUST => &mut self.tsc_adjust,
            msr::IA32_MCG_STATUS => &mut self.mcg_status,
            msr::IA32_MTRR_DEF_TYPE => &mut self.mtrr_def_type,
            msr::KVM_WALL_CLOCK => &mut self.kvm_wall_clock,
            msr::KVM_SYSTEM_TIME => &mut self.kvm_system_time,
            msr::KVM_STEAL_TIME => &mut self.kvm_steal_time,
            msr::IA32_MTRR_PHYSBASE0..=msr::IA32_MTRR_PHYSMASK7 => {
                &mut self.mtrr_variable[(number - msr::IA32_MTRR_PHYSBASE0) as usize]
            }
            _ => &mut self.mtrr_fixed[msr::MTRR_FIXED.iter().position(|&fixed| fixed == number)?],
        })
    }

    /// All plain ones that a saved state carries, in ascending order of number.
    pub fn save(&mut self) -> Vec<(u32, u64)> {
        let mut all: Vec<u32> = msr::plain().collect();
        all.sort_unstable();
        all.into_iter().filter_map(|number| Some((number, *self.plain(number)?))).collect()
    }

    /// Takes over what [`Msrs::save`] gave; says whether the number is known.
    pub fn restore(&mut self, number: u32, value: u64) -> bool {
        self.plain(number).map(|slot| *slot = value).is_some()
    }
}

impl Cpu {
    /// RDMSR.
    pub fn read_msr(&mut self, number: u32) -> Result<u64, Fault> {
        if (msr::IA32_X2APIC_BASE..=msr::IA32_X2APIC_END).contains(&number) {
            return self.apic_read_msr(number);
        }
        if let Some(&mut value) = self.msrs.plain(number) {
            return Ok(value);
        }
        Ok(match number {
            msr::IA32_TSC => self.tsc.now(),
            msr::IA32_APIC_BASE => self.apic.base(),
            msr::IA32_EFER => self.efer.bits(),
            msr::IA32_FS_BASE => self.segments[SegmentRegister::Fs as usize].base,
            msr::IA32_GS_BASE => self.segments[SegmentRegister::Gs as usize].base,
            msr::IA32_TSC_DEADLINE => self.apic.tsc_deadline(),
            msr::IA32_ARCH_CAPABILITIES => ARCH_CAPABILITIES,
            msr::IA32_MTRRCAP => MTRRCAP,
            msr::IA32_BIOS_SIGN_ID => MICROCODE,
            msr::KVM_WALL_CLOCK_OLD => self.msrs.kvm_wall_clock,
            msr::KVM_SYSTEM_TIME_OLD => self.msrs.kvm_system_time,
            msr::IA32_PLATFORM_ID
            | msr::PLATFORM_INFO
            | msr::MISC_FEATURE_ENABLES
            | msr::IA32_MCG_CAP
            | msr::IA32_MCG_CTL => 0,
            _ => {
                tracing::debug!(msr = format_args!("{number:#x}"), "read of an unknown MSR");
                return self.gp0();
            }
        })
    }

    /// Whether a plain MSR takes `value`: that no reserved bit is set, addresses are canonical and memory types
    /// exist.
    fn takes(&self, number: u32, value: u64) -> bool {
        let is_memory_type = |kind: u8| matches!(kind, 0 | 1 | 4..=6);
        match number {
            msr::IA32_LSTAR
            | msr::IA32_CSTAR
            | msr::IA32_KERNEL_GS_BASE
            | msr::IA32_SYSENTER_ESP
            | msr::IA32_SYSENTER_EIP => paging::is_canonical(value),
            msr::IA32_PAT => value.to_le_bytes().iter().all(|&kind| is_memory_type(kind) || kind == 7),
            msr::IA32_TSC_AUX => value >> 32 == 0,
            msr::IA32_SPEC_CTRL => value & !SPEC_CTRL_VALID == 0,
            msr::IA32_MTRR_DEF_TYPE => value & !0xcff == 0 && is_memory_type(value as u8),
            msr::IA32_MTRR_PHYSBASE0..=msr::IA32_MTRR_PHYSMASK7 => {
                let is_base = number.is_multiple_of(2);
                let low = if is_base { 0xff } else { 1 << 11 };
                let address = !self.beyond_physical() & !paging::PAGE_OFFSET;
                value & !(address | low) == 0 && (!is_base || is_memory_type(value as u8))
            }
            number if msr::MTRR_FIXED.contains(&number) => {
                value.to_le_bytes().into_iter().all(is_memory_type)
            }
            _ => true,
        }
    }

    /// WRMSR.
    pub fn write_msr(&mut self, number: u32, value: u64) -> Exec {
        if (msr::IA32_X2APIC_BASE..=msr::IA32_X2APIC_END).contains(&number) {
            return self.apic_write_msr(number, value);
        }
        match number {
            msr::IA32_EFER => return self.write_efer(value),
            msr::IA32_APIC_BASE => return self.apic_write_base(value),
            msr::IA32_TSC_DEADLINE => return self.apic_write_deadline(value),
            msr::IA32_TSC => {
                let delta = value.wrapping_sub(self.tsc.now());
                self.msrs.tsc_adjust = self.msrs.tsc_adjust.wrapping_add(delta);
                self.adjust_tsc(delta);
            }
            msr::IA32_TSC_ADJUST => {
                let delta = value.wrapping_sub(self.msrs.tsc_adjust);
                self.msrs.tsc_adjust = value;
                self.adjust_tsc(delta);
            }
            msr::IA32_FS_BASE | msr::IA32_GS_BASE => {
                if !paging::is_canonical(value) {
                    return self.gp0();
                }
                let segment =
                    if number == msr::IA32_FS_BASE { SegmentRegister::Fs } else { SegmentRegister::Gs };
                self.segments[segment as usize].base = value;
            }
            msr::KVM_WALL_CLOCK | msr::KVM_WALL_CLOCK_OLD => {
                self.msrs.kvm_wall_clock = value;
                self.publish_wall_clock(value);
            }
            msr::KVM_SYSTEM_TIME | msr::KVM_SYSTEM_TIME_OLD => {
                self.msrs.kvm_system_time = value;
                self.publish_system_time();
            }
            msr::KVM_STEAL_TIME if value & steal::RESERVED != 0 => return self.gp0(),
            msr::KVM_STEAL_TIME => self.set_steal_time(value),
            msr::IA32_PRED_CMD | msr::IA32_FLUSH_CMD if value & !1 != 0 => return self.gp0(),
            msr::IA32_PRED_CMD
            | msr::IA32_FLUSH_CMD
            | msr::IA32_BIOS_UPDT_TRIG
            | msr::IA32_BIOS_SIGN_ID
            | msr::MISC_FEATURE_ENABLES
            | msr::IA32_MCG_CTL => {}
            _ => {
                if !self.takes(number, value) {
                    return self.gp0();
                }
                let Some(slot) = self.msrs.plain(number) else {
                    tracing::debug!(
                        msr = format_args!("{number:#x}"),
                        value = format_args!("{value:#x}"),
                        "write of an unknown MSR"
                    );
                    return self.gp0();
                };
                *slot = value;
            }
        }
        Ok(())
    }

    fn write_efer(&mut self, value: u64) -> Exec {
        let new = Efer::from_bits_retain(value);
        let known = Efer::SCE | Efer::LME | Efer::LMA | Efer::NXE;
        let lme_changes = (new ^ self.efer).contains(Efer::LME);
        if !known.contains(new) || (lme_changes && self.cr0.contains(Cr0::PG)) {
            return self.gp0();
        }
        // LMA follows from LME and CR0.PG.
        self.efer = (new - Efer::LMA) | (self.efer & Efer::LMA);
        self.tlb.flush_all();
        Ok(())
    }

    fn adjust_tsc(&mut self, delta: u64) {
        self.tsc.adjust(delta as i64);
        self.apic.adjust_tsc(delta as i64);
        self.arm_timer();
        self.publish_system_time();
    }

    /// Writes this vCPU's kvm-clock page, if the guest has asked for it.
    pub fn publish_system_time(&mut self) {
        let Some(address) = pvclock::time_info_address(self.msrs.kvm_system_time) else { return };
        let mut version = [0; 4];
        self.read_physical_bytes(address, &mut version);
        let scale = Scale::new(self.shared.timebase.khz());
        let now = self.shared.clock.now();
        let update = pvclock::time_info(u32::from_le_bytes(version), scale, self.tsc.now(), now);
        self.write_update(address, &update);
    }

    fn publish_wall_clock(&mut self, address: u64) {
        let mut version = [0; 4];
        self.read_physical_bytes(address, &mut version);
        let clock = &self.shared.clock;
        let update = pvclock::wall_clock(u32::from_le_bytes(version), clock.wall(), clock.now());
        self.write_update(address, &update);
    }

    fn write_update<const BODY: usize>(&mut self, address: u64, update: &Update<BODY>) {
        self.write_physical_bytes(address, &update.opening);
        self.write_physical_bytes(address.wrapping_add(4), &update.body);
        self.write_physical_bytes(address, &update.closing);
    }
}
