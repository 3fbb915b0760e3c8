//! Names and numbers of CD-ROM drives (MMC-6, SPC-3).

/// ATA commands that a packet device knows (ACS-3, 7).
pub(super) mod command {
    pub const DEVICE_RESET: u8 = 0x08;
    pub const EXECUTE_DIAGNOSTIC: u8 = 0x90;
    pub const PACKET: u8 = 0xa0;
    pub const IDENTIFY_PACKET: u8 = 0xa1;
    pub const STANDBY_IMMEDIATE: u8 = 0xe0;
    pub const IDLE_IMMEDIATE: u8 = 0xe1;
    pub const CHECK_POWER_MODE: u8 = 0xe5;
    pub const SLEEP: u8 = 0xe6;
    pub const SET_FEATURES: u8 = 0xef;
}

/// SET FEATURES: set the transfer mode.
pub(super) const SET_TRANSFER_MODE: u8 = 0x03;
/// The feature bit of PACKET: data go by DMA.
pub(super) const PACKET_DMA: u16 = 1 << 0;
/// What CHECK POWER MODE answers: active or idle.
pub(super) const POWER_ACTIVE: u16 = 0xff;
/// The interrupt reason at the end of a packet: no data, the command is over.
pub(super) const REASON_DONE: u16 = 0b11;

/// Operation codes.
pub(super) mod operation {
    pub const TEST_UNIT_READY: u8 = 0x00;
    pub const REQUEST_SENSE: u8 = 0x03;
    pub const INQUIRY: u8 = 0x12;
    pub const MODE_SENSE_6: u8 = 0x1a;
    pub const START_STOP_UNIT: u8 = 0x1b;
    pub const PREVENT_ALLOW: u8 = 0x1e;
    pub const READ_CAPACITY: u8 = 0x25;
    pub const READ_10: u8 = 0x28;
    pub const SEEK_10: u8 = 0x2b;
    pub const READ_TOC: u8 = 0x43;
    pub const GET_CONFIGURATION: u8 = 0x46;
    pub const GET_EVENT_STATUS: u8 = 0x4a;
    pub const READ_DISC_INFORMATION: u8 = 0x51;
    pub const MODE_SENSE_10: u8 = 0x5a;
    pub const READ_12: u8 = 0xa8;
    pub const SET_CD_SPEED: u8 = 0xbb;
    pub const MECHANISM_STATUS: u8 = 0xbd;
}

/// Why a packet failed: sense key, additional sense code and its qualifier (MMC-6, annex F).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Sense {
    pub(super) key: u8,
    pub(super) code: u8,
    pub(super) qualifier: u8,
}

impl Sense {
    pub(super) const NONE: Self = Self::new(0x0, 0x00, 0x00);
    pub(super) const NO_MEDIUM_TRAY_CLOSED: Self = Self::new(0x2, 0x3a, 0x01);
    pub(super) const NO_MEDIUM_TRAY_OPEN: Self = Self::new(0x2, 0x3a, 0x02);
    pub(super) const UNRECOVERED_READ: Self = Self::new(0x3, 0x11, 0x00);
    pub(super) const INVALID_OPERATION: Self = Self::new(0x5, 0x20, 0x00);
    pub(super) const OUT_OF_RANGE: Self = Self::new(0x5, 0x21, 0x00);
    pub(super) const INVALID_FIELD: Self = Self::new(0x5, 0x24, 0x00);
    pub(super) const NOTHING_SAVED: Self = Self::new(0x5, 0x39, 0x00);
    pub(super) const REMOVAL_PREVENTED: Self = Self::new(0x5, 0x53, 0x02);
    pub(super) const MEDIUM_CHANGED: Self = Self::new(0x6, 0x28, 0x00);

    const fn new(key: u8, code: u8, qualifier: u8) -> Self {
        Self { key, code, qualifier }
    }

    /// Sense data in the fixed format (SPC-3, 4.5.3).
    pub(super) const fn data(self) -> [u8; 18] {
        [0x70, 0, self.key, 0, 0, 0, 0, 10, 0, 0, 0, 0, self.code, self.qualifier, 0, 0, 0, 0]
    }
}
