//! Registers and structures of the controller, by name (AHCI 1.3.1; Serial ATA 3.2).

/// Ports of the controller.
pub(super) const PORTS: usize = 6;
/// Command slots of a port.
pub(super) const SLOTS: u8 = 32;
/// Bytes of BAR 5.
pub(super) const BAR_SIZE: u64 = 0x1000;
/// Where the ports' registers begin.
const PORT_BASE: u64 = 0x100;
/// Bytes of a port's registers.
const PORT_SIZE: u64 = 0x80;

/// A register of BAR 5; all have 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Register {
    /// CAP (3.1.1): what the controller can do.
    Capabilities,
    /// GHC (3.1.2): [`control`].
    GlobalControl,
    /// IS (3.1.3): the ports that want to interrupt.
    InterruptStatus,
    /// PI (3.1.4): the ports that there are.
    PortsImplemented,
    /// VS (3.1.5).
    Version,
    /// A port's.
    Port(usize, PortRegister),
}

/// A register of a port (3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PortRegister {
    /// PxCLB and PxCLBU: where the command list is.
    CommandList,
    CommandListUpper,
    /// PxFB and PxFBU: where received FISes go.
    ReceivedFis,
    ReceivedFisUpper,
    /// PxIS: [`interrupt`](super::regs::interrupt).
    InterruptStatus,
    /// PxIE.
    InterruptEnable,
    /// PxCMD: [`command`](super::regs::command).
    Command,
    /// PxTFD: the device's status and, above it, its error register.
    TaskFile,
    /// PxSIG: what kind of device it says it is.
    Signature,
    /// PxSSTS: [`link`](super::regs::link).
    SataStatus,
    /// PxSCTL.
    SataControl,
    /// PxSERR: [`sata_error`](super::regs::sata_error).
    SataError,
    /// PxSACT: queued commands that are not done.
    SataActive,
    /// PxCI: commands that are not done, or, if queued, not taken over by the device.
    CommandIssue,
}

impl Register {
    /// The register at `offset`, a multiple of four. None reads as zeroes: CCC, enclosure management, CAP2, BOHC,
    /// port multipliers, device sleep.
    pub(super) fn at(offset: u64) -> Option<Self> {
        let Some(offset) = offset.checked_sub(PORT_BASE) else {
            return Some(match offset {
                0x00 => Self::Capabilities,
                0x04 => Self::GlobalControl,
                0x08 => Self::InterruptStatus,
                0x0c => Self::PortsImplemented,
                0x10 => Self::Version,
                _ => return None,
            });
        };
        let port = usize::try_from(offset / PORT_SIZE).ok().filter(|port| *port < PORTS)?;
        let register = match offset % PORT_SIZE {
            0x00 => PortRegister::CommandList,
            0x04 => PortRegister::CommandListUpper,
            0x08 => PortRegister::ReceivedFis,
            0x0c => PortRegister::ReceivedFisUpper,
            0x10 => PortRegister::InterruptStatus,
            0x14 => PortRegister::InterruptEnable,
            0x18 => PortRegister::Command,
            0x20 => PortRegister::TaskFile,
            0x24 => PortRegister::Signature,
            0x28 => PortRegister::SataStatus,
            0x2c => PortRegister::SataControl,
            0x30 => PortRegister::SataError,
            0x34 => PortRegister::SataActive,
            0x38 => PortRegister::CommandIssue,
            _ => return None,
        };
        Some(Self::Port(port, register))
    }
}

/// CAP.
pub(super) mod capabilities {
    use super::{PORTS, SLOTS};

    /// PIO commands may have several blocks of data.
    const PIO_MULTIPLE: u32 = 1 << 15;
    /// There is no mode but AHCI.
    const AHCI_ONLY: u32 = 1 << 18;
    /// 6 Gbit/s.
    const GENERATION_3: u32 = 3 << 20;
    /// A port's BSY and DRQ can be cleared.
    const LIST_OVERRIDE: u32 = 1 << 24;
    /// Queued commands.
    const NCQ: u32 = 1 << 30;
    /// Addresses have 64 bits.
    const ADDRESS_64: u32 = 1 << 31;
    const PORTS_LESS_1: u32 = (PORTS as u32).saturating_sub(1);
    const SLOTS_LESS_1: u32 = (SLOTS as u32).saturating_sub(1);
    /// The register.
    pub const VALUE: u32 = PORTS_LESS_1
        | (SLOTS_LESS_1 << 8)
        | PIO_MULTIPLE
        | AHCI_ONLY
        | GENERATION_3
        | LIST_OVERRIDE
        | NCQ
        | ADDRESS_64;
}

/// PI: all ports.
pub(super) const PORTS_IMPLEMENTED: u32 = (1_u32 << PORTS).saturating_sub(1);
/// VS: AHCI 1.3.1.
pub(super) const VERSION: u32 = 0x0001_0301;

/// Bits of GHC.
pub(super) mod control {
    /// Resets the controller; reads as zero when done.
    pub const RESET: u32 = 1 << 0;
    /// Interrupts are on.
    pub const INTERRUPT_ENABLE: u32 = 1 << 1;
    /// The controller works in AHCI mode: always.
    pub const AHCI_ENABLE: u32 = 1 << 31;
}

/// Bits of PxIS and PxIE (3.3.5).
pub(super) mod interrupt {
    /// DHRS: a D2H register FIS with the I bit.
    pub const D2H_REGISTER: u32 = 1 << 0;
    /// PSS: a PIO setup FIS with the I bit, and its data moved.
    pub const PIO_SETUP: u32 = 1 << 1;
    /// SDBS: a set device bits FIS with the I bit.
    pub const SET_DEVICE_BITS: u32 = 1 << 3;
    /// DPS: an entry of the table of regions with the I bit was used up.
    pub const REGION_DONE: u32 = 1 << 5;
    /// PCS: shows PxSERR.DIAG.X.
    pub const PORT_CHANGE: u32 = 1 << 6;
    /// PRCS: shows PxSERR.DIAG.N.
    pub const PHY_READY_CHANGE: u32 = 1 << 22;
    /// OFS: the device had more data than there was room for.
    pub const OVERFLOW: u32 = 1 << 24;
    /// HBDS: a command's data could not be read or written in memory.
    pub const DATA_ERROR: u32 = 1 << 28;
    /// HBFS: a command, or a received FIS, could not be read or written in memory.
    pub const BUS_FATAL: u32 = 1 << 29;
    /// TFES: the device reported an error.
    pub const TASK_FILE_ERROR: u32 = 1 << 30;
    /// The bits of PxIE that can be written.
    pub const ENABLE_WRITABLE: u32 = 0xfdc0_00ff;
    /// The bits of PxIS that are shown from PxSERR and can only be cleared there.
    pub const SHOWN: u32 = PORT_CHANGE | PHY_READY_CHANGE;
}

/// Bits of PxCMD (3.3.7).
pub(super) mod command {
    /// ST: the list of commands is worked on.
    pub const START: u32 = 1 << 0;
    /// SUD: the device is spun up: always.
    pub const SPIN_UP: u32 = 1 << 1;
    /// POD: the device has power: always.
    pub const POWER_ON: u32 = 1 << 2;
    /// CLO: clears BSY and DRQ in PxTFD; reads as zero when done.
    pub const LIST_OVERRIDE: u32 = 1 << 3;
    /// FRE: received FISes are written to memory.
    pub const FIS_RECEIVE: u32 = 1 << 4;
    /// CCS: the slot being worked on.
    pub const CURRENT_SLOT_SHIFT: u32 = 8;
    /// FR: FRE is in effect.
    pub const FIS_RECEIVE_RUNNING: u32 = 1 << 14;
    /// CR: ST is in effect.
    pub const LIST_RUNNING: u32 = 1 << 15;
    /// ATAPI and DLAE: what the driver notes about its device and its light.
    const NOTES: u32 = (1 << 24) | (1 << 25);
    /// The bits that keep what is written.
    pub const WRITABLE: u32 = START | FIS_RECEIVE | NOTES;
}

/// PxSSTS and PxSCTL (3.3.10, 3.3.11).
pub(super) mod link {
    /// DET.
    pub const DETECTION: u32 = 0xf;
    /// SCTL.DET: resets the link (COMRESET) for as long as it is there.
    pub const DETECTION_RESET: u32 = 1;
    /// SCTL.DET and SSTS.DET: the port is switched off.
    pub const DETECTION_OFFLINE: u32 = 4;
    /// SSTS with a device: present, 6 Gbit/s, active.
    pub const UP: u32 = 0x133;
    /// The bits of SCTL that can be written: DET, SPD, IPM.
    pub const WRITABLE: u32 = 0xfff;
}

/// Bits of PxSERR (3.3.12).
pub(super) mod sata_error {
    /// DIAG.N: the link went up or down.
    pub const PHY_READY_CHANGE: u32 = 1 << 16;
    /// DIAG.X: a device reported in.
    pub const EXCHANGED: u32 = 1 << 26;
}

/// Bits of a device's status register (ACS-3, 6.2).
pub(super) mod status {
    /// The command failed.
    pub const ERROR: u8 = 1 << 0;
    /// Data are asked for.
    pub const DATA_REQUEST: u8 = 1 << 3;
    /// What was called "seek complete", and drivers still look for.
    pub const SEEK_COMPLETE: u8 = 1 << 4;
    /// The device is ready.
    pub const READY: u8 = 1 << 6;
    /// The device is busy.
    pub const BUSY: u8 = 1 << 7;
    /// All is well.
    pub const IDLE: u8 = READY | SEEK_COMPLETE;
}

/// PxTFD while nothing is known of the device.
pub(super) const TASK_FILE_UNKNOWN: u32 = 0x7f;
/// PxSIG while nothing is known of the device.
pub(super) const SIGNATURE_UNKNOWN: u32 = 0xffff_ffff;

/// Where FISes go in the structure at PxFB (4.2.1).
pub(super) mod received {
    pub const PIO_SETUP: u64 = 0x20;
    pub const D2H_REGISTER: u64 = 0x40;
    pub const SET_DEVICE_BITS: u64 = 0x58;
}

/// Bits of a command header's first word (4.2.2).
pub(super) mod header {
    /// CFL: words of the command FIS.
    pub const FIS_LENGTH: u32 = 0x1f;
    /// A: there is a packet.
    pub const PACKET: u32 = 1 << 5;
    /// PRDTL: entries of the table of regions, from this bit on.
    pub const REGIONS_SHIFT: u32 = 16;
}

/// FIS types (Serial ATA 3.2, 10.5.2).
pub(super) mod fis {
    pub const H2D_REGISTER: u8 = 0x27;
    pub const D2H_REGISTER: u8 = 0x34;
    pub const SET_DEVICE_BITS: u8 = 0xa1;
    pub const PIO_SETUP: u8 = 0x5f;
    /// Byte 1 of an H2D FIS: it carries a command, not just the control register.
    pub const IS_COMMAND: u8 = 1 << 7;
    /// Byte 1 of a FIS from the device: it interrupts.
    pub const INTERRUPT: u8 = 1 << 6;
    /// Byte 1 of a PIO setup FIS: data go to the host.
    pub const TO_HOST: u8 = 1 << 5;
    /// SRST in the control register.
    pub const SOFT_RESET: u8 = 1 << 2;
}
