//! Command words of the 8259A (Intel 8259A data sheet, "Programming the 8259A").

use bitflags::bitflags;

bitflags! {
    /// ICW1, which bit 4 tells from OCW2 and OCW3.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct Icw1: u8 {
        /// ICW4 will be written.
        const IC4 = 1 << 0;
        /// There is no cascade, and no ICW3.
        const SINGLE = 1 << 1;
        const MARK = 1 << 4;
    }

    /// ICW4.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct Icw4: u8 {
        const AUTO_EOI = 1 << 1;
        const SPECIAL_FULLY_NESTED = 1 << 4;
    }

    /// OCW3, which bits 3 and 4 tell from ICW1 and OCW2.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct Ocw3: u8 {
        /// Which register [`Self::READ_REGISTER`] selects: ISR rather than IRR.
        const IN_SERVICE = 1 << 0;
        const READ_REGISTER = 1 << 1;
        const POLL = 1 << 2;
        const MARK = 1 << 3;
        const SPECIAL_MASK = 1 << 5;
        const SET_SPECIAL_MASK = 1 << 6;
    }
}

/// What bits 5 to 7 of OCW2 ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ocw2 {
    RotateInAutoEoiClear,
    NonSpecificEoi,
    NoOperation,
    SpecificEoi,
    RotateInAutoEoiSet,
    RotateOnNonSpecificEoi,
    SetPriority,
    RotateOnSpecificEoi,
}

impl Ocw2 {
    pub(super) fn from_bits(value: u8) -> Self {
        match value >> 5 {
            0 => Self::RotateInAutoEoiClear,
            1 => Self::NonSpecificEoi,
            2 => Self::NoOperation,
            3 => Self::SpecificEoi,
            4 => Self::RotateInAutoEoiSet,
            5 => Self::RotateOnNonSpecificEoi,
            6 => Self::SetPriority,
            _ => Self::RotateOnSpecificEoi,
        }
    }
}
