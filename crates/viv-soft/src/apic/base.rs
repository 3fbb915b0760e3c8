//! IA32_APIC_BASE: where the registers are, and which mode the APIC is in (SDM vol. 3, 11.4.4 and 11.12.1).

use viv_arch::Exception;
use viv_arch::apic::{BASE_BSP, BASE_ENABLE, BASE_X2APIC, DEFAULT_BASE};

use super::LocalApic;

/// Bits below the address with a meaning.
const FLAGS: u64 = BASE_BSP | BASE_X2APIC | BASE_ENABLE;
/// Bits below the address.
const PAGE_OFFSET: u64 = 0xfff;

/// Modes of a local APIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Disabled,
    XApic,
    X2Apic,
}

/// The value after power-on.
pub(super) const fn reset_value(bootstrap: bool) -> u64 {
    DEFAULT_BASE | BASE_ENABLE | if bootstrap { BASE_BSP } else { 0 }
}

/// The bits that must be 0 on a processor with this MAXPHYADDR.
pub(super) const fn reserved_bits(physical_address_bits: u32) -> u64 {
    let too_high = match u64::MAX.checked_shl(physical_address_bits) {
        Some(bits) => bits,
        None => 0,
    };
    too_high | (PAGE_OFFSET & !FLAGS)
}

/// The mode that a value stands for; x2APIC without enable is none.
const fn mode_of(value: u64) -> Option<Mode> {
    match (value & BASE_ENABLE != 0, value & BASE_X2APIC != 0) {
        (false, false) => Some(Mode::Disabled),
        (true, false) => Some(Mode::XApic),
        (true, true) => Some(Mode::X2Apic),
        (false, true) => None,
    }
}

impl LocalApic {
    /// IA32_APIC_BASE.
    #[must_use]
    pub const fn base(&self) -> u64 {
        self.base
    }

    /// Writes IA32_APIC_BASE. CPUID.1:EDX.APIC follows [`LocalApic::is_enabled`].
    ///
    /// # Errors
    /// #GP for reserved bits, and for transitions that there are not: from x2APIC to xAPIC, and from disabled to
    /// x2APIC (SDM vol. 3, 11.12.5, figure 11-27).
    pub fn set_base(&mut self, value: u64) -> Result<(), Exception> {
        let mode = self.checked_mode(value).ok_or(Exception::gp(0))?;
        match (self.mode(), mode) {
            (Mode::X2Apic, Mode::XApic) | (Mode::Disabled, Mode::X2Apic) => return Err(Exception::gp(0)),
            (Mode::XApic, Mode::X2Apic) => {
                // 32 bits of destination replace the 8 in bits 63:56; the logical id comes from the id, and there
                // is one way to read logical destinations.
                self.icr &= u64::from(u32::MAX);
                self.ldr = 0;
                self.dfr = u32::MAX;
                self.base = value;
            }
            (old, Mode::Disabled) if old != Mode::Disabled => {
                // What it was set up to do is lost (SDM vol. 3, 11.4.3).
                self.base = value;
                self.init();
            }
            _ => self.base = value,
        }
        self.publish();
        Ok(())
    }

    /// Whether it is there at all, in either mode.
    #[must_use]
    pub const fn is_enabled(&self) -> bool {
        self.base & BASE_ENABLE != 0
    }

    /// Guest-physical address of the page of registers; only xAPIC mode has one.
    #[must_use]
    pub fn mmio_base(&self) -> Option<u64> {
        (self.mode() == Mode::XApic).then_some(self.base & !PAGE_OFFSET)
    }

    pub(super) fn mode(&self) -> Mode {
        mode_of(self.base).unwrap_or(Mode::Disabled)
    }

    /// The mode that `value` stands for, unless it is not a value for this MSR.
    pub(super) const fn checked_mode(&self, value: u64) -> Option<Mode> {
        if value & self.base_reserved == 0 { mode_of(value) } else { None }
    }
}
