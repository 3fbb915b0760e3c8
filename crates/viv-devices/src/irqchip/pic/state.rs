//! The saved state of the 8259 pair.

use serde::{Deserialize, Serialize};

/// Both 8259s, the master first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::irqchip) struct PicState {
    pub(super) chips: [ChipState; 2],
}

/// One 8259: what it holds while it works is what is saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ChipState {
    /// The inputs as they are.
    pub(super) lines: u8,
    pub(super) requests: u8,
    pub(super) in_service: u8,
    pub(super) mask: u8,
    /// The inputs that are sensed by level.
    pub(super) level_triggered: u8,
    /// Bits 3 to 7 of the vectors.
    pub(super) vector_base: u8,
    /// The input of lowest priority.
    pub(super) lowest: u8,
    pub(super) initialization: Initialization,
    pub(super) needs_icw4: bool,
    pub(super) single: bool,
    pub(super) auto_eoi: bool,
    pub(super) rotate_in_auto_eoi: bool,
    pub(super) special_fully_nested: bool,
    pub(super) special_mask: bool,
    pub(super) poll: bool,
    pub(super) reads_in_service: bool,
}

/// What the next write to the data port is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Initialization {
    /// OCW1.
    Done,
    /// ICW2.
    Icw2,
    /// ICW3.
    Icw3,
    /// ICW4.
    Icw4,
}
