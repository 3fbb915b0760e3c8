//! The host's TSC.

use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// CPUID.1:ECX: a hypervisor is present.
const HYPERVISOR: u32 = 1 << 31;
/// First leaf of hypervisors; EAX is the last.
const HYPERVISOR_BASE: u32 = 0x4000_0000;
/// TSC frequency in kHz, in EAX: first VMware's, now a convention among hypervisors.
const HYPERVISOR_TIMING: u32 = 0x4000_0010;
/// TSC and crystal clock (SDM vol. 2, CPUID).
const TSC_LEAF: u32 = 0x15;

/// Reads the host's TSC.
#[inline]
#[must_use]
#[allow(unsafe_code, reason = "the intrinsic is declared unsafe")]
pub fn host_tsc() -> u64 {
    // SAFETY: RDTSC exists on every x86-64 processor and touches no memory. CR4.TSD and PR_SET_TSC, which would
    // make it fault, are not set for this process; the fault would be a signal, not undefined behaviour.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// The frequency of the host's TSC in kHz: what the hypervisor or the processor says, or else measured, once, in
/// about 10 ms. Never 0.
///
/// Leaf 0x16 is not asked: it has the nominal frequency of the cores in MHz, from which the TSC's can differ by
/// hundreds of parts in a million.
#[must_use]
pub fn host_tsc_khz() -> u32 {
    static KHZ: OnceLock<u32> = OnceLock::new();
    *KHZ.get_or_init(|| stated_khz().unwrap_or_else(measured_khz).max(1))
}

fn stated_khz() -> Option<u32> {
    let khz = if __cpuid(1).ecx & HYPERVISOR != 0 {
        // Leaf 0x15 under a hypervisor may be another machine's, from before a migration.
        if __cpuid(HYPERVISOR_BASE).eax < HYPERVISOR_TIMING {
            return None;
        }
        __cpuid(HYPERVISOR_TIMING).eax
    } else {
        if __cpuid(0).eax < TSC_LEAF {
            return None;
        }
        let leaf = __cpuid_count(TSC_LEAF, 0);
        khz_from_crystal(leaf.eax, leaf.ebx, leaf.ecx)?
    };
    (khz != 0).then_some(khz)
}

/// The TSC's frequency from the crystal's in Hz and the ratio between them.
fn khz_from_crystal(denominator: u32, numerator: u32, crystal_hz: u32) -> Option<u32> {
    let hz = (u64::from(crystal_hz) * u64::from(numerator)).checked_div(u64::from(denominator))?;
    u32::try_from(hz / 1000).ok()
}

fn measured_khz() -> u32 {
    let (tsc, time) = moment();
    std::thread::sleep(Duration::from_millis(10));
    let (later_tsc, later_time) = moment();
    let nanoseconds = later_time.saturating_sub(time).max(1);
    let khz = u128::from(later_tsc.saturating_sub(tsc)) * 1_000_000 / nanoseconds;
    u32::try_from(khz).unwrap_or(u32::MAX)
}

/// The TSC and the time in nanoseconds at one moment: of some readings the one in which the clock was read
/// fastest, so that an interruption does not spoil it.
fn moment() -> (u64, u128) {
    let reading = |_| {
        let before = host_tsc();
        let time = clock_gettime(ClockId::MonotonicRaw);
        let width = host_tsc().saturating_sub(before);
        let nanoseconds = time.tv_sec as u128 * 1_000_000_000 + time.tv_nsec as u128;
        (width, before + width / 2, nanoseconds)
    };
    let (_, tsc, time) = (0..8).map(reading).min().unwrap_or_default();
    (tsc, time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_states_is_what_is_measured() {
        let (stated, measured) = (host_tsc_khz(), measured_khz());
        assert!(stated.abs_diff(measured) < stated / 100, "{stated} kHz, measured {measured}");
    }

    #[test]
    fn the_crystal_gives_the_frequency() {
        assert_eq!(khz_from_crystal(2, 192, 24_000_000), Some(2_304_000));
        assert_eq!(khz_from_crystal(0, 0, 0), None);
        assert_eq!(khz_from_crystal(1, u32::MAX, u32::MAX), None);
    }
}
