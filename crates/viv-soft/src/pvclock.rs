//! kvm-clock: time that a guest computes from its TSC.
//!
//! The guest names a page by an MSR; there the host leaves a moment, as TSC and as nanoseconds, and the scale
//! from one to the other (Linux, Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME_NEW and
//! MSR_KVM_WALL_CLOCK_NEW). The functions here compute the bytes; to write them to guest memory, in the order
//! that [`Update`] asks for, is the caller's.

use std::time::Duration;

/// Bytes of `struct pvclock_vcpu_time_info`.
pub const TIME_INFO_SIZE: usize = 32;
/// Bytes of `struct pvclock_wall_clock`.
pub const WALL_CLOCK_SIZE: usize = 12;

/// Flag PVCLOCK_TSC_STABLE_BIT: the clocks of all vCPUs agree, so the guest need not guard against going back.
const TSC_STABLE: u8 = 1 << 0;

/// Bit 0 of KVM_SYSTEM_TIME: enabled.
const ENABLE: u64 = 1 << 0;

/// Where the guest wants its time information, from the value of KVM_SYSTEM_TIME; `None` if it wants none.
#[must_use]
pub const fn time_info_address(msr: u64) -> Option<u64> {
    if msr & ENABLE != 0 { Some(msr & !ENABLE) } else { None }
}

/// How nanoseconds follow from TSC ticks: `((ticks << shift) * multiplier) >> 32`, or `ticks >> -shift` if shift
/// is negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    multiplier: u32,
    shift: i8,
}

impl Scale {
    /// The scale of a TSC of `tsc_khz` kHz, which is not 0. The multiplier has all its 32 bits, so the clock is
    /// wrong by at most 2⁻³² of the time, a quarter of a nanosecond each second.
    #[must_use]
    pub fn new(tsc_khz: u32) -> Self {
        const NANOSECONDS_PER_MILLISECOND: u64 = 1_000_000;
        let khz = u128::from(tsc_khz.max(1));
        // 10⁶ / kHz in binary, with 64 bits after the point: 52 to 84 bits long.
        let ratio = (u128::from(NANOSECONDS_PER_MILLISECOND) << 64) / khz;
        let excess = ratio.ilog2() as i8 - 31;
        let rounded = (ratio + (1 << (excess - 1))) >> excess;
        match u32::try_from(rounded) {
            Ok(multiplier) => Self { multiplier, shift: excess - 32 },
            // Rounded up to 2³².
            Err(_) => Self { multiplier: 1 << 31, shift: excess - 31 },
        }
    }

    /// The guest's own computation.
    #[must_use]
    pub const fn nanoseconds(self, ticks: u64) -> u64 {
        let shifted = if self.shift < 0 { ticks >> -self.shift } else { ticks << self.shift };
        ((shifted as u128 * self.multiplier as u128) >> 32) as u64
    }
}

/// The bytes of one structure and the order in which to write them, so that a guest that reads meanwhile
/// notices: `opening` at offset 0, then `body` at offset 4, then `closing` at offset 0. Each is a store of its
/// own, and they become visible in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Update<const BODY: usize> {
    /// An odd version: an update is under way.
    pub opening: [u8; 4],
    /// What follows the version.
    pub body: [u8; BODY],
    /// The next even version.
    pub closing: [u8; 4],
}

impl<const BODY: usize> Update<BODY> {
    /// `version` is the one in guest memory. It is the guest's to choose at first, and may be anything.
    fn new(version: u32, body: [u8; BODY]) -> Self {
        let opening = version.wrapping_add(1) | 1;
        Self { opening: opening.to_le_bytes(), body, closing: opening.wrapping_add(1).to_le_bytes() }
    }
}

/// `struct pvclock_vcpu_time_info`: at guest TSC `tsc`, guest time is `system_time` nanoseconds. `version` is the
/// one in guest memory.
///
/// Every vCPU must be given the same pair, and the guest TSCs be in step: the clock says so to the guest.
#[must_use]
pub fn time_info(version: u32, scale: Scale, tsc: u64, system_time: u64) -> Update<{ TIME_INFO_SIZE - 4 }> {
    let mut body = [0; TIME_INFO_SIZE - 4];
    body[4..12].copy_from_slice(&tsc.to_le_bytes());
    body[12..20].copy_from_slice(&system_time.to_le_bytes());
    body[20..24].copy_from_slice(&scale.multiplier.to_le_bytes());
    body[24] = scale.shift.to_le_bytes()[0];
    body[25] = TSC_STABLE;
    Update::new(version, body)
}

/// `struct pvclock_wall_clock`: the time of day when guest time was 0, from the present time of day (since the
/// Unix epoch) and the present guest time in nanoseconds. `version` is the one in guest memory.
///
/// The format ends in 2106.
#[must_use]
pub fn wall_clock(version: u32, wall: Duration, system_time: u64) -> Update<{ WALL_CLOCK_SIZE - 4 }> {
    let start = wall.saturating_sub(Duration::from_nanos(system_time));
    let mut body = [0; WALL_CLOCK_SIZE - 4];
    body[..4].copy_from_slice(&(start.as_secs() as u32).to_le_bytes());
    body[4..].copy_from_slice(&start.subsec_nanos().to_le_bytes());
    Update::new(version, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREQUENCIES: [u32; 12] = [
        1,
        999,
        32_768,
        500_000,
        999_999,
        1_000_000,
        1_000_001,
        2_000_000,
        2_299_998,
        3_699_850,
        5_800_000,
        u32::MAX,
    ];

    #[test]
    fn hours_later_the_clock_is_right_within_a_nanosecond_a_second() {
        for khz in FREQUENCIES {
            let scale = Scale::new(khz);
            for seconds in [0u64, 1, 60, 3600, 3 * 3600] {
                let ticks = u128::from(khz) * 1000 * u128::from(seconds);
                let Ok(ticks) = u64::try_from(ticks) else { continue };
                // A TSC below 1 MHz would overflow the guest's 64-bit arithmetic, as it would KVM's.
                if scale.shift > 0 && ticks.leading_zeros() < scale.shift as u32 {
                    continue;
                }
                let error = scale.nanoseconds(ticks).abs_diff(seconds * 1_000_000_000);
                assert!(error <= seconds + 2, "{khz} kHz, {seconds} s: {error} ns");
            }
        }
    }

    #[test]
    fn the_multiplier_has_all_its_bits() {
        for khz in FREQUENCIES {
            assert!(Scale::new(khz).multiplier >= 1 << 31, "{khz} kHz");
        }
        assert_eq!(Scale::new(1_000_000), Scale { multiplier: 1 << 31, shift: 1 });
        assert_eq!(Scale::new(2_000_000), Scale { multiplier: 1 << 31, shift: 0 });
        assert_eq!(Scale::new(4_000_000), Scale { multiplier: 1 << 31, shift: -1 });
    }

    /// Reads the structure as `pvclock_read_begin` and `__pvclock_read_cycles` of a guest do.
    #[test]
    fn a_guest_reads_the_time_from_the_bytes() {
        let update = time_info(6, Scale::new(2_300_000), 1_000_000, 77);
        assert_eq!(update.opening, [7, 0, 0, 0]);
        assert_eq!(update.closing, [8, 0, 0, 0]);
        let mut page = [0xaa; TIME_INFO_SIZE];
        page[..4].copy_from_slice(&update.closing);
        page[4..].copy_from_slice(&update.body);
        let u64_at = |offset: usize| u64::from_le_bytes(page[offset..offset + 8].try_into().unwrap());
        let multiplier = u32::from_le_bytes(page[24..28].try_into().unwrap());
        let shift = page[28] as i8;
        let delta = 1_000_000 + 2_300_000_000 - u64_at(8);
        let shifted = if shift < 0 { delta >> -shift } else { delta << shift };
        let now = ((u128::from(shifted) * u128::from(multiplier)) >> 32) as u64 + u64_at(16);
        assert!(now.abs_diff(1_000_000_077) <= 1, "{now}");
        assert_eq!(page[29], 1, "TSC stable");
        assert_eq!(page[30..], [0, 0]);
    }

    #[test]
    fn the_wall_clock_is_that_of_guest_time_0() {
        let update = wall_clock(u32::MAX, Duration::new(1_700_000_010, 5), 10_000_000_004);
        assert_eq!(update.opening, [1, 0, 0, 0]);
        assert_eq!(update.closing, [2, 0, 0, 0]);
        assert_eq!(update.body[..4], 1_700_000_000u32.to_le_bytes());
        assert_eq!(update.body[4..], 1u32.to_le_bytes());
    }

    #[test]
    fn a_version_left_odd_by_the_guest_becomes_even() {
        for version in [0, 1, 2, 0xdead_beef, u32::MAX - 1, u32::MAX] {
            let update = wall_clock(version, Duration::ZERO, 0);
            let [opening, closing] = [update.opening, update.closing].map(u32::from_le_bytes);
            assert!(opening % 2 == 1 && closing == opening.wrapping_add(1) && closing != version);
        }
    }

    #[test]
    fn the_msr_says_where() {
        assert_eq!(time_info_address(0x1234_5001), Some(0x1234_5000));
        assert_eq!(time_info_address(0x1234_5000), None);
    }
}
