//! What a display shows, as a picture and as text. Pure functions of registers and video memory.

mod cp437;
mod dispi;
mod scan;
mod vga;

use super::core::Core;
use super::regs::{attribute, sequencer};
use scan::Raster;

/// A picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Pixels in a line.
    pub width: usize,
    /// Lines.
    pub height: usize,
    /// Line by line, red, green and blue of each pixel: `3 * width * height` bytes.
    pub pixels: Vec<u8>,
}

/// The size of the picture of a display in no mode.
const NO_MODE: (usize, usize) = (640, 480);

impl Frame {
    fn black(width: usize, height: usize) -> Self {
        let bytes = width.saturating_mul(height).saturating_mul(3);
        Self { width, height, pixels: vec![0; bytes] }
    }

    /// A picture whose pixels are made line by line.
    fn by_lines(width: usize, height: usize, mut line: impl FnMut(usize, &mut Vec<u8>)) -> Self {
        let bytes = width.saturating_mul(3);
        let mut pixels = Vec::with_capacity(bytes.saturating_mul(height));
        for y in 0..height {
            line(y, &mut pixels);
            pixels.resize(bytes.saturating_mul(y.saturating_add(1)), 0);
        }
        Self { width, height, pixels }
    }
}

impl Core {
    /// What is on the screen.
    pub(super) fn frame(&self) -> Frame {
        let mode = self.dispi.mode();
        if self.is_blank() {
            let raster = Raster::of(&self.registers);
            let (width, height) = match mode {
                Some(mode) => (mode.width, mode.height),
                None => raster.map_or(NO_MODE, |raster| (raster.width(), raster.lines)),
            };
            return Frame::black(width, height);
        }
        match mode {
            Some(mode) => dispi::frame(self, mode),
            None => match Raster::of(&self.registers) {
                Some(raster) => vga::frame(self, &raster),
                None => Frame::black(NO_MODE.0, NO_MODE.1),
            },
        }
    }

    /// The lines of characters on the screen, without the spaces at their ends, in a text mode.
    pub(super) fn text(&self) -> Option<Vec<String>> {
        if self.is_blank() || self.dispi.is_on() {
            return None;
        }
        vga::text(self, &Raster::of(&self.registers)?)
    }

    fn is_blank(&self) -> bool {
        let r = &self.registers;
        r.attribute_index & attribute::PALETTE_SOURCE == 0
            || r.sequencer(sequencer::CLOCKING) & sequencer::SCREEN_OFF != 0
    }
}
