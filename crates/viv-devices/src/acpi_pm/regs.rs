//! ACPI's fixed registers (ACPI 6.5, 4.8.3 and 4.8.4), and those that an ICH9 has beside them (ICH9 data sheet,
//! 13.8.2 and 13.8.3).

use bitflags::bitflags;

bitflags! {
    /// PM1 status and PM1 enable, which have their bits in the same places.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct Pm1: u16 {
        /// The highest bit of the PM timer has changed.
        const TIMER = 1 << 0;
        const GLOBAL_LOCK = 1 << 5;
        const POWER_BUTTON = 1 << 8;
        const RTC = 1 << 10;
        /// Status only: the machine was woken from sleep.
        const WAKE = 1 << 15;

        /// What can be enabled.
        const ENABLES = Self::TIMER.bits() | Self::GLOBAL_LOCK.bits() | Self::POWER_BUTTON.bits()
            | Self::RTC.bits();
    }
}

/// PM1 control: the machine is in ACPI mode.
pub(super) const SCI_EN: u16 = 1 << 0;
/// PM1 control: bus masters request the processor's attention.
pub(super) const BM_RLD: u16 = 1 << 1;
/// PM1 control: which sleep state SLP_EN enters.
pub(super) const SLP_TYP: u16 = 7 << SLP_TYP_SHIFT;
/// Where SLP_TYP lies.
pub(super) const SLP_TYP_SHIFT: u32 = 10;
/// PM1 control: enters the sleep state (write only).
pub(super) const SLP_EN: u16 = 1 << 13;
/// PM1 control: what a write changes.
pub(super) const CONTROL_KEPT: u16 = SCI_EN | BM_RLD | SLP_TYP;

/// SMI_EN as it always reads: SMIs are on (GLB_SMI_EN), those by the APM control port too (APMC_EN). SeaBIOS takes
/// it for a sign that system management mode was set up, and does not try to.
pub(super) const SMI_EN: u32 = 1 << 0 | 1 << 5;
