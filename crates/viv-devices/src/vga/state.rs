//! The saved state of a [`Vga`](super::Vga).

use serde::{Deserialize, Serialize};

use super::regs::{attribute, crtc};

/// Bytes of a page of video memory as it is saved.
pub(super) const PAGE: usize = 4096;
/// How many colours the DAC holds.
pub(super) const COLORS: usize = 256;

/// Version 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct VgaState {
    pub(super) registers: Registers,
    pub(super) dispi: DispiState,
    /// The pages of video memory that are not all zero, in ascending order.
    pub(super) memory: Vec<Page>,
}

impl VgaState {
    pub(super) const VERSION: u16 = 1;
}

/// One page of video memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Page {
    pub(super) number: u32,
    pub(super) bytes: Vec<u8>,
}

/// The VGA's own registers: what they hold while it works is what is saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Registers {
    pub(super) misc: u8,
    pub(super) feature: u8,
    pub(super) enable: u8,
    /// What input status 1 said last.
    pub(super) status_1: u8,
    pub(super) sequencer_index: u8,
    pub(super) sequencer: [u8; 8],
    pub(super) graphics_index: u8,
    pub(super) graphics: [u8; 9],
    pub(super) crtc_index: u8,
    pub(super) crtc: [u8; crtc::COUNT],
    pub(super) attribute_index: u8,
    /// The next write to the attribute controller is data.
    pub(super) attribute_data: bool,
    pub(super) attribute: [u8; attribute::COUNT],
    pub(super) dac: DacState,
    /// What the last read of planar memory loaded, plane 0 in the lowest byte.
    pub(super) latches: u32,
}

/// The DAC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DacState {
    pub(super) mask: u8,
    pub(super) index: u8,
    /// The index was given for reading.
    pub(super) reads: bool,
    /// Which of red, green and blue is next.
    pub(super) component: u8,
    /// Red and green of a colour whose blue is to follow.
    pub(super) pending: [u8; 2],
    /// [`COLORS`] of red, green and blue.
    pub(super) colors: Vec<[u8; 3]>,
}

/// DISPI's registers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DispiState {
    pub(super) index: u16,
    pub(super) id: u16,
    pub(super) width: u16,
    pub(super) height: u16,
    pub(super) depth: u16,
    pub(super) enable: u16,
    pub(super) bank: u16,
    pub(super) virtual_width: u16,
    pub(super) x_offset: u16,
    pub(super) y_offset: u16,
    /// Pixels have their highest byte first.
    pub(super) big_endian: bool,
}
