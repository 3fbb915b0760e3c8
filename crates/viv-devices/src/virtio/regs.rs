//! Names and numbers of VIRTIO 1.3 that all devices share.

/// Feature bits of rings and transports (VIRTIO 1.3, 6).
pub mod feature {
    /// A descriptor may refer to a table of descriptors.
    pub const RING_INDIRECT_DESC: u64 = 1 << 28;
    /// Notifications are asked for by position.
    pub const RING_EVENT_IDX: u64 = 1 << 29;
    /// The driver follows version 1 or later.
    pub const VERSION_1: u64 = 1 << 32;
}

/// Bits of the device status (2.1).
pub(super) mod status {
    /// The features are negotiated.
    pub const FEATURES_OK: u8 = 8;
    /// The driver is ready: queues run.
    pub const DRIVER_OK: u8 = 4;
    /// Something is broken beyond repair.
    pub const DEVICE_NEEDS_RESET: u8 = 64;
    /// What a driver may set.
    pub const WRITABLE: u8 = 1 | 2 | DRIVER_OK | FEATURES_OK | 128;
}

/// Bits of the ISR status (4.1.4.5).
pub(super) mod isr {
    /// A queue has used buffers.
    pub const QUEUE: u8 = 1;
    /// The configuration changed.
    pub const CONFIG: u8 = 2;
}

/// No MSI-X vector (4.1.5.1.2).
pub(super) const NO_VECTOR: u16 = 0xffff;

/// Registers of the common configuration structure (4.1.4.3). Each answers to accesses of its own width;
/// the halves of 64-bit ones are registers of their own (4.1.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Common {
    DeviceFeatureSelect,
    DeviceFeature,
    DriverFeatureSelect,
    DriverFeature,
    ConfigMsixVector,
    NumQueues,
    DeviceStatus,
    ConfigGeneration,
    QueueSelect,
    QueueSize,
    QueueMsixVector,
    QueueEnable,
    QueueNotifyOff,
    QueueDescLow,
    QueueDescHigh,
    QueueDriverLow,
    QueueDriverHigh,
    QueueDeviceLow,
    QueueDeviceHigh,
}

impl Common {
    /// Bytes of the structure.
    pub(super) const LENGTH: u64 = 0x38;

    /// The register of `length` bytes at `offset`.
    pub(super) fn at(offset: u64, length: usize) -> Option<Self> {
        Some(match (offset, length) {
            (0x00, 4) => Self::DeviceFeatureSelect,
            (0x04, 4) => Self::DeviceFeature,
            (0x08, 4) => Self::DriverFeatureSelect,
            (0x0c, 4) => Self::DriverFeature,
            (0x10, 2) => Self::ConfigMsixVector,
            (0x12, 2) => Self::NumQueues,
            (0x14, 1) => Self::DeviceStatus,
            (0x15, 1) => Self::ConfigGeneration,
            (0x16, 2) => Self::QueueSelect,
            (0x18, 2) => Self::QueueSize,
            (0x1a, 2) => Self::QueueMsixVector,
            (0x1c, 2) => Self::QueueEnable,
            (0x1e, 2) => Self::QueueNotifyOff,
            (0x20, 4) => Self::QueueDescLow,
            (0x24, 4) => Self::QueueDescHigh,
            (0x28, 4) => Self::QueueDriverLow,
            (0x2c, 4) => Self::QueueDriverHigh,
            (0x30, 4) => Self::QueueDeviceLow,
            (0x34, 4) => Self::QueueDeviceHigh,
            _ => return None,
        })
    }
}
