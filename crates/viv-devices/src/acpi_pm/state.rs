//! The saved state of an [`AcpiPm`](super::AcpiPm).

use serde::{Deserialize, Serialize};

use super::regs;
use crate::device::{DeviceError, SavedState};

/// Version 2.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AcpiPmState {
    pub(super) status: u16,
    pub(super) enable: u16,
    pub(super) control: u16,
    pub(super) apm: [u8; 2],
    pub(super) gpe_status: u32,
    pub(super) gpe_enable: u32,
    /// How often the PM timer's highest bit had changed when the guest was last told.
    pub(super) timer_turns: u64,
}

impl AcpiPmState {
    pub(super) const VERSION: u16 = 2;

    /// Decodes a state of this version or an older one.
    pub(super) fn decode(state: &SavedState) -> Result<Self, DeviceError> {
        match state.version {
            1 => Ok(state.decode::<AcpiPmStateV1>(1)?.into()),
            _ => state.decode(Self::VERSION),
        }
    }
}

/// Version 1, of machines that were always in ACPI mode and did not say so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AcpiPmStateV1 {
    pub(super) status: u16,
    pub(super) enable: u16,
    pub(super) control: u16,
    pub(super) gpe_status: u32,
    pub(super) gpe_enable: u32,
    pub(super) timer_turns: u64,
}

impl From<AcpiPmStateV1> for AcpiPmState {
    fn from(old: AcpiPmStateV1) -> Self {
        let AcpiPmStateV1 { status, enable, control, gpe_status, gpe_enable, timer_turns } = old;
        let control = control | regs::SCI_EN;
        Self { status, enable, control, apm: [0; 2], gpe_status, gpe_enable, timer_turns }
    }
}
