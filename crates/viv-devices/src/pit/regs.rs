//! The 8254's control word (Intel 8254 data sheet, "Control Word Format" and "Read-Back Command"), and port 0x61.

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

/// A control word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ControlWord {
    /// Set a counter's mode.
    Mode { channel: usize, access: Access, mode: Mode, bcd: bool },
    /// Latch a counter's count.
    LatchCount { channel: usize },
    /// Latch counts or statuses of several counters.
    ReadBack { channels: [bool; 3], count: bool, status: bool },
}

impl ControlWord {
    pub(super) fn from_bits(value: u8) -> Self {
        let channel = usize::from(value >> 6);
        if channel == 3 {
            return Self::ReadBack {
                channels: [value & 2 != 0, value & 4 != 0, value & 8 != 0],
                count: value & 0x20 == 0,
                status: value & 0x10 == 0,
            };
        }
        match Access::from_bits(value >> 4) {
            None => Self::LatchCount { channel },
            Some(access) => {
                Self::Mode { channel, access, mode: Mode::from_bits(value >> 1), bcd: value & 1 != 0 }
            }
        }
    }
}

/// Which bytes of a count are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Access {
    Low,
    High,
    /// The low byte, then the high byte.
    Both,
}

impl Access {
    fn from_bits(bits: u8) -> Option<Self> {
        match bits & 3 {
            0 => None,
            1 => Some(Self::Low),
            2 => Some(Self::High),
            _ => Some(Self::Both),
        }
    }

    pub(super) fn bits(self) -> u8 {
        match self {
            Self::Low => 1,
            Self::High => 2,
            Self::Both => 3,
        }
    }
}

/// How a counter counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Mode {
    /// 0: OUT rises when the count has run out.
    TerminalCount,
    /// 1: the gate starts a low pulse.
    OneShot,
    /// 2: OUT is low for one clock in each period.
    RateGenerator,
    /// 3: OUT is high for half of each period.
    SquareWave,
    /// 4: OUT is low for one clock when the count has run out.
    SoftwareStrobe,
    /// 5: like 4, started by the gate.
    HardwareStrobe,
}

impl Mode {
    fn from_bits(bits: u8) -> Self {
        match bits & 7 {
            0 => Self::TerminalCount,
            1 => Self::OneShot,
            2 | 6 => Self::RateGenerator,
            3 | 7 => Self::SquareWave,
            4 => Self::SoftwareStrobe,
            _ => Self::HardwareStrobe,
        }
    }

    pub(super) fn bits(self) -> u8 {
        match self {
            Self::TerminalCount => 0,
            Self::OneShot => 1,
            Self::RateGenerator => 2,
            Self::SquareWave => 3,
            Self::SoftwareStrobe => 4,
            Self::HardwareStrobe => 5,
        }
    }

    /// Whether it goes on for ever.
    pub(super) fn is_periodic(self) -> bool {
        matches!(self, Self::RateGenerator | Self::SquareWave)
    }

    /// Whether the gate starts it.
    pub(super) fn is_triggered(self) -> bool {
        matches!(self, Self::OneShot | Self::HardwareStrobe)
    }
}

/// The status byte: OUT.
pub(super) const STATUS_OUT: u8 = 0x80;
/// The status byte: what was written last is not in the counter yet.
pub(super) const STATUS_NULL_COUNT: u8 = 0x40;

bitflags! {
    /// Port 0x61.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct PortB: u8 {
        /// The gate of counter 2.
        const GATE2 = 1 << 0;
        const SPEAKER = 1 << 1;
        const PARITY_CHECK_DISABLE = 1 << 2;
        const CHANNEL_CHECK_DISABLE = 1 << 3;
        /// Toggles with each memory refresh (read only).
        const REFRESH = 1 << 4;
        /// OUT of counter 2 (read only).
        const OUT2 = 1 << 5;

        const WRITABLE = 0x0f;
    }
}
