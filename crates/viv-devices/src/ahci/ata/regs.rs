//! Commands of a disk (ACS-3, 7).

/// Command codes.
pub(super) mod command {
    pub const DATA_SET_MANAGEMENT: u8 = 0x06;
    pub const RECALIBRATE: u8 = 0x10;
    pub const READ_SECTORS: u8 = 0x20;
    pub const READ_SECTORS_EXT: u8 = 0x24;
    pub const READ_DMA_EXT: u8 = 0x25;
    pub const READ_NATIVE_MAX_EXT: u8 = 0x27;
    pub const READ_MULTIPLE_EXT: u8 = 0x29;
    pub const READ_LOG_EXT: u8 = 0x2f;
    pub const WRITE_SECTORS: u8 = 0x30;
    pub const WRITE_SECTORS_EXT: u8 = 0x34;
    pub const WRITE_DMA_EXT: u8 = 0x35;
    pub const WRITE_MULTIPLE_EXT: u8 = 0x39;
    pub const WRITE_DMA_FUA_EXT: u8 = 0x3d;
    pub const VERIFY: u8 = 0x40;
    pub const VERIFY_EXT: u8 = 0x42;
    pub const READ_FPDMA_QUEUED: u8 = 0x60;
    pub const WRITE_FPDMA_QUEUED: u8 = 0x61;
    pub const EXECUTE_DIAGNOSTIC: u8 = 0x90;
    pub const INITIALIZE_PARAMETERS: u8 = 0x91;
    pub const READ_MULTIPLE: u8 = 0xc4;
    pub const WRITE_MULTIPLE: u8 = 0xc5;
    pub const SET_MULTIPLE_MODE: u8 = 0xc6;
    pub const READ_DMA: u8 = 0xc8;
    pub const WRITE_DMA: u8 = 0xca;
    pub const WRITE_MULTIPLE_FUA_EXT: u8 = 0xce;
    pub const STANDBY_IMMEDIATE: u8 = 0xe0;
    pub const IDLE_IMMEDIATE: u8 = 0xe1;
    pub const STANDBY: u8 = 0xe2;
    pub const IDLE: u8 = 0xe3;
    pub const CHECK_POWER_MODE: u8 = 0xe5;
    pub const SLEEP: u8 = 0xe6;
    pub const FLUSH_CACHE: u8 = 0xe7;
    pub const FLUSH_CACHE_EXT: u8 = 0xea;
    pub const IDENTIFY: u8 = 0xec;
    pub const SET_FEATURES: u8 = 0xef;
    pub const READ_NATIVE_MAX: u8 = 0xf8;
}

/// Subcommands of SET FEATURES (7.45).
pub(super) mod feature {
    pub const ENABLE_WRITE_CACHE: u8 = 0x02;
    pub const SET_TRANSFER_MODE: u8 = 0x03;
    pub const DISABLE_LOOK_AHEAD: u8 = 0x55;
    pub const DISABLE_REVERTING: u8 = 0x66;
    pub const DISABLE_WRITE_CACHE: u8 = 0x82;
    pub const ENABLE_LOOK_AHEAD: u8 = 0xaa;
    pub const ENABLE_REVERTING: u8 = 0xcc;
}

/// Logs (ACS-3, annex A).
pub(super) mod log {
    /// Which logs there are.
    pub const DIRECTORY: u8 = 0x00;
    /// What became of the queued command that failed.
    pub const QUEUED_ERROR: u8 = 0x10;
}

/// The device register: addresses are LBAs.
pub(super) const DEVICE_LBA: u8 = 1 << 6;
/// The device register of a queued write: it is to be durable when done.
pub(super) const DEVICE_FUA: u8 = 1 << 7;
/// The feature bit of DATA SET MANAGEMENT: TRIM.
pub(super) const TRIM: u16 = 1 << 0;
/// The most blocks of ranges that DATA SET MANAGEMENT takes.
pub(super) const MAX_TRIM_BLOCKS: u16 = 8;
/// The most sectors for one interrupt of READ MULTIPLE.
pub(super) const MAX_MULTIPLE: u8 = 16;
/// Commands that can be queued.
pub(super) const QUEUE_DEPTH: u16 = 32;
/// What CHECK POWER MODE answers: active or idle.
pub(super) const POWER_ACTIVE: u16 = 0xff;
