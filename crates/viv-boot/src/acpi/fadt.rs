//! The Fixed ACPI Description Table (ACPI 6.5, 5.2.9).

use acpi_tables::fadt::{FADT, FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};

use super::{AcpiParameters, OEM_ID, OEM_REVISION, OEM_TABLE_ID};

/// IAPC_BOOT_ARCH (table 5.11).
const LEGACY_DEVICES: u16 = 1 << 0;
const HAS_8042: u16 = 1 << 1;
const VGA_NOT_PRESENT: u16 = 1 << 2;
const PCIE_ASPM_CONTROLS: u16 = 1 << 4;

/// Latencies beyond which C2 and C3 are not supported.
const NO_C2: u16 = 101;
const NO_C3: u16 = 1001;

const PM1_EVENT_LENGTH: u8 = 4;
const PM1_CONTROL_LENGTH: u8 = 2;
const PM_TIMER_LENGTH: u8 = 4;

/// The table, leading to a FACS and a DSDT below 4 GiB.
///
/// There is a power button of the fixed kind, and no sleep button.
pub fn build(parameters: &AcpiParameters, facs: u64, dsdt: u64) -> FADT {
    let fixed = &parameters.fixed;
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .firmware_ctrl_32(facs as u32)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::ResetRegSup);
    if fixed.pm_timer_32_bit {
        fadt = fadt.flag(Flags::TmrValExt);
    }
    // Older systems look at the 32-bit field only, and newer ones want both to agree.
    fadt.dsdt = (dsdt as u32).into();
    fadt.x_dsdt = dsdt.into();

    fadt.sci_int = u16::from(fixed.sci).into();
    fadt.pm1a_evt_blk = u32::from(fixed.pm1_event).into();
    fadt.pm1_evt_len = PM1_EVENT_LENGTH;
    fadt.x_pm1a_evt_blk = ports(fixed.pm1_event, PM1_EVENT_LENGTH, AccessSize::WordAccess);
    fadt.pm1a_cnt_blk = u32::from(fixed.pm1_control).into();
    fadt.pm1_cnt_len = PM1_CONTROL_LENGTH;
    fadt.x_pm1a_cnt_blk = ports(fixed.pm1_control, PM1_CONTROL_LENGTH, AccessSize::WordAccess);
    fadt.pm_tmr_blk = u32::from(fixed.pm_timer).into();
    fadt.pm_tmr_len = PM_TIMER_LENGTH;
    fadt.x_pm_tmr_blk = ports(fixed.pm_timer, PM_TIMER_LENGTH, AccessSize::DwordAccess);
    if let Some(gpe0) = fixed.gpe0 {
        fadt.gpe0_blk = u32::from(gpe0.port).into();
        fadt.gpe0_blk_len = gpe0.length;
        fadt.x_gpe0_blk = ports(gpe0.port, gpe0.length, AccessSize::ByteAccess);
    }
    if let Some(smi) = fixed.smi {
        fadt.smi_cmd = u32::from(smi.port).into();
        fadt.acpi_enable = smi.acpi_enable;
        fadt.acpi_disable = smi.acpi_disable;
    }
    fadt.reset_reg = ports(fixed.reset_port, 1, AccessSize::ByteAccess);
    fadt.reset_value = fixed.reset_value;

    fadt.p_lvl2_lat = NO_C2.into();
    fadt.p_lvl3_lat = NO_C3.into();
    let mut boot_arch = LEGACY_DEVICES | PCIE_ASPM_CONTROLS;
    if parameters.i8042 {
        boot_arch |= HAS_8042;
    }
    if !parameters.vga {
        boot_arch |= VGA_NOT_PRESENT;
    }
    fadt.iapc_boot_arch = boot_arch.into();
    fadt.finalize()
}

fn ports(port: u16, length: u8, access: AccessSize) -> GAS {
    GAS::new(AddressSpace::SystemIo, length.saturating_mul(8), 0, access, port.into())
}
