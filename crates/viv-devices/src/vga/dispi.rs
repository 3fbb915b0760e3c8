//! DISPI: modes by width, height and depth.

use super::core::{Core, MEMORY_SIZE};
use super::regs::dispi;
use super::state::DispiState;

/// The greatest width and height, in pixels: more than memory has room for at once in all but the shallow modes.
const MAX_SIDE: u16 = 4096;
/// The greatest depth.
const MAX_DEPTH: u16 = 32;

/// A mode that is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mode {
    /// Pixels in a line.
    pub(super) width: usize,
    /// Lines.
    pub(super) height: usize,
    /// Bits of a pixel: 4, 8, 15, 16, 24 or 32.
    pub(super) depth: u16,
    /// Bytes of memory from one line to the next.
    pub(super) stride: usize,
    /// Where in memory the first pixel is.
    pub(super) start: usize,
}

impl DispiState {
    pub(super) fn power_on() -> Self {
        Self {
            index: 0,
            id: *dispi::IDS.end(),
            width: 0,
            height: 0,
            depth: 0,
            enable: 0,
            bank: 0,
            virtual_width: 0,
            x_offset: 0,
            y_offset: 0,
            big_endian: false,
        }
    }

    /// Whether DISPI's mode is on, and not one of the VGA's own.
    pub(super) fn is_on(&self) -> bool {
        self.enable & dispi::ENABLED != 0
    }

    /// Whether its mode is on and memory is no planes to it.
    pub(super) fn is_linear(&self) -> bool {
        self.is_on() && self.depth != 4
    }

    /// Whether the DAC takes 8 bits for each colour.
    pub(super) fn dac_is_8_bits(&self) -> bool {
        self.enable & dispi::DAC_8_BITS != 0
    }

    /// The bits that the DAC takes for each colour.
    pub(super) fn dac_bits(&self) -> u8 {
        if self.dac_is_8_bits() { 0xff } else { 0x3f }
    }

    /// Bits that a pixel takes in memory.
    fn pixel_bits(&self) -> usize {
        if self.depth == 15 { 16 } else { usize::from(self.depth) }
    }

    /// Bytes of memory that so many pixels of a line take. In 4 bits, 8 pixels are a byte in each of four planes.
    fn bytes(&self, pixels: u16) -> usize {
        usize::from(pixels).saturating_mul(self.pixel_bits()) >> 3
    }

    /// How many lines memory has room for.
    fn room(&self) -> u16 {
        let lines = MEMORY_SIZE.checked_div(self.bytes(self.virtual_width)).unwrap_or(0);
        u16::try_from(lines).unwrap_or(u16::MAX)
    }

    /// Makes a mode of what the guest gave that fits memory, as it can read back.
    fn fit(&mut self) {
        if !matches!(self.depth, 4 | 8 | 15 | 16 | 24 | 32) {
            self.depth = 8;
        }
        self.width = (self.width & !7).clamp(8, MAX_SIDE);
        self.height = self.height.clamp(1, MAX_SIDE);
        self.virtual_width = (self.virtual_width & !7).max(self.width);
        self.height = self.height.min(self.room().max(1));
        self.x_offset = self.x_offset.min(self.virtual_width.saturating_sub(self.width));
        self.y_offset = self.y_offset.min(self.room().saturating_sub(self.height));
    }

    /// Whether these registers can be a guest's.
    pub(super) fn can_be(&self) -> bool {
        let mut fitted = self.clone();
        fitted.fit();
        !self.is_on() || fitted == *self
    }

    /// The mode that is on, if one is.
    pub(super) fn mode(&self) -> Option<Mode> {
        self.is_on().then(|| {
            let stride = self.bytes(self.virtual_width);
            // Planes have eight pixels in one place; offsets are in whole ones.
            let x_offset = if self.depth == 4 { self.x_offset & !7 } else { self.x_offset };
            let start = stride.saturating_mul(self.y_offset.into()).saturating_add(self.bytes(x_offset));
            let (width, height) = (self.width.into(), self.height.into());
            Mode { width, height, depth: self.depth, stride, start }
        })
    }
}

impl Core {
    /// Reads a register.
    pub(super) fn read_dispi(&self, index: u16) -> u16 {
        let d = &self.dispi;
        let capabilities = d.enable & dispi::CAPABILITIES != 0;
        match index {
            dispi::ID => d.id,
            dispi::WIDTH | dispi::HEIGHT if capabilities => MAX_SIDE,
            dispi::DEPTH if capabilities => MAX_DEPTH,
            dispi::WIDTH => d.width,
            dispi::HEIGHT => d.height,
            dispi::DEPTH => d.depth,
            dispi::ENABLE => d.enable,
            dispi::BANK => d.bank,
            dispi::VIRTUAL_WIDTH => d.virtual_width,
            dispi::VIRTUAL_HEIGHT if d.is_on() => d.room(),
            dispi::X_OFFSET => d.x_offset,
            dispi::Y_OFFSET => d.y_offset,
            dispi::MEMORY => (MEMORY_SIZE >> 16) as u16,
            _ => 0,
        }
    }

    /// Writes a register.
    pub(super) fn write_dispi(&mut self, index: u16, value: u16) {
        let d = &mut self.dispi;
        match index {
            dispi::ID if dispi::IDS.contains(&value) => d.id = value,
            dispi::WIDTH => d.width = value,
            dispi::HEIGHT => d.height = value,
            dispi::DEPTH => d.depth = value,
            dispi::ENABLE => return self.enable_dispi(value),
            dispi::BANK => d.bank = value & ((MEMORY_SIZE >> 16).saturating_sub(1) as u16),
            dispi::VIRTUAL_WIDTH => d.virtual_width = value,
            dispi::X_OFFSET => d.x_offset = value,
            dispi::Y_OFFSET => d.y_offset = value,
            _ => {}
        }
        if d.is_on() {
            d.fit();
        }
    }

    fn enable_dispi(&mut self, value: u16) {
        let d = &mut self.dispi;
        let was_on = d.is_on();
        d.enable = value;
        if !d.is_on() {
            d.bank = 0;
        } else if !was_on {
            (d.virtual_width, d.x_offset, d.y_offset) = (0, 0, 0);
            d.fit();
            if value & dispi::KEEP_MEMORY == 0 {
                let length = d.bytes(d.virtual_width).saturating_mul(d.height.into());
                if let Some(visible) = self.memory.get_mut(..length) {
                    visible.fill(0);
                }
            }
        }
    }
}
