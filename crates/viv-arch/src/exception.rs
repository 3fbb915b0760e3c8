//! Exceptions (SDM vol. 3, 6.15).

use serde::{Deserialize, Serialize};

/// The vectors that the processor itself raises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
#[allow(missing_docs, reason = "the SDM's own mnemonics")]
pub enum Vector {
    DivideError = 0,
    Debug = 1,
    Nmi = 2,
    Breakpoint = 3,
    Overflow = 4,
    BoundRange = 5,
    InvalidOpcode = 6,
    DeviceNotAvailable = 7,
    DoubleFault = 8,
    InvalidTss = 10,
    SegmentNotPresent = 11,
    StackFault = 12,
    GeneralProtection = 13,
    PageFault = 14,
    X87Error = 16,
    AlignmentCheck = 17,
    MachineCheck = 18,
    SimdError = 19,
}

impl Vector {
    /// Whether delivery pushes an error code.
    #[must_use]
    pub const fn has_error_code(self) -> bool {
        matches!(
            self,
            Self::DoubleFault
                | Self::InvalidTss
                | Self::SegmentNotPresent
                | Self::StackFault
                | Self::GeneralProtection
                | Self::PageFault
                | Self::AlignmentCheck
        )
    }

    /// Whether the exception counts as contributory when two collide (SDM vol. 3, table 6-5).
    #[must_use]
    pub const fn is_contributory(self) -> bool {
        matches!(
            self,
            Self::DivideError
                | Self::InvalidTss
                | Self::SegmentNotPresent
                | Self::StackFault
                | Self::GeneralProtection
        )
    }

    /// The vector with this number, if the processor raises one.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::DivideError,
            1 => Self::Debug,
            2 => Self::Nmi,
            3 => Self::Breakpoint,
            4 => Self::Overflow,
            5 => Self::BoundRange,
            6 => Self::InvalidOpcode,
            7 => Self::DeviceNotAvailable,
            8 => Self::DoubleFault,
            10 => Self::InvalidTss,
            11 => Self::SegmentNotPresent,
            12 => Self::StackFault,
            13 => Self::GeneralProtection,
            14 => Self::PageFault,
            16 => Self::X87Error,
            17 => Self::AlignmentCheck,
            18 => Self::MachineCheck,
            19 => Self::SimdError,
            _ => return None,
        })
    }
}

/// One exception on its way to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exception {
    /// Which.
    pub vector: Vector,
    /// The error code, for vectors that have one.
    pub error_code: u32,
    /// What goes into CR2, for page faults.
    pub address: u64,
}

impl Exception {
    /// An exception with error code 0.
    #[must_use]
    pub const fn new(vector: Vector) -> Self {
        Self { vector, error_code: 0, address: 0 }
    }

    /// An exception with an error code.
    #[must_use]
    pub const fn with_code(vector: Vector, error_code: u32) -> Self {
        Self { vector, error_code, address: 0 }
    }

    /// #GP with an error code.
    #[must_use]
    pub const fn gp(error_code: u32) -> Self {
        Self::with_code(Vector::GeneralProtection, error_code)
    }

    /// #UD.
    #[must_use]
    pub const fn ud() -> Self {
        Self::new(Vector::InvalidOpcode)
    }
}
