//! How the CRT controller goes through memory: which unit and which row of a character are where on the screen.

use super::super::regs::{attribute, crtc, graphics, sequencer};
use super::super::state::Registers;

/// The CRT controller's address counter has 16 bits.
const COUNTER: usize = 0xffff;

/// A picture's geometry, of the VGA's own modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Raster {
    /// Characters, or units of memory, in a line.
    pub(super) columns: usize,
    /// Lines of dots.
    pub(super) lines: usize,
    /// Dots of a character: 8 or 9.
    pub(super) dots: usize,
    /// How many times each dot is shown.
    pub(super) zoom: usize,
    /// The last row of a character.
    last_row: usize,
    double_scan: bool,
    /// Units from one row of characters to the next.
    offset: usize,
    start: usize,
    first_row: usize,
    /// The last line before memory is shown from its begin.
    line_compare: usize,
    /// Dots by which lines are moved to the left.
    panning: usize,
    panning_above: bool,
    mode: u8,
}

/// What is at the begin of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line {
    /// The address counter.
    counter: usize,
    /// The row of the characters.
    pub(super) row: usize,
    /// Dots by which it is moved to the left.
    pub(super) panning: usize,
    mode: u8,
}

impl Raster {
    /// The geometry that the registers give; `None` if they give none yet.
    pub(super) fn of(r: &Registers) -> Option<Self> {
        let columns = r.crtc(crtc::HORIZONTAL_END);
        if columns == 0 {
            return None;
        }
        let text = r.graphics(graphics::MISC) & graphics::GRAPHICS == 0;
        let clocking = r.sequencer(sequencer::CLOCKING);
        let nine = text && clocking & sequencer::DOTS_8 == 0;
        let overflow = usize::from(r.crtc(crtc::OVERFLOW));
        let scan = r.crtc(crtc::MAXIMUM_SCAN);
        let preset = r.crtc(crtc::PRESET_ROW_SCAN);
        let wide = |index| usize::from(r.crtc(index));
        let line_compare = wide(crtc::LINE_COMPARE) | (overflow & 0x10) << 4 | usize::from(scan & 0x40) << 3;
        let lines = wide(crtc::VERTICAL_END) | (overflow & 0x02) << 7 | (overflow & 0x40) << 3;
        let panning = usize::from(r.attribute(attribute::PANNING));
        Some(Self {
            columns: usize::from(columns).saturating_add(1),
            lines: lines.saturating_add(1),
            dots: if nine { 9 } else { 8 },
            zoom: if clocking & sequencer::HALF_CLOCK != 0 { 2 } else { 1 },
            last_row: usize::from(scan & 0x1f),
            double_scan: scan & crtc::DOUBLE_SCAN != 0,
            offset: wide(crtc::OFFSET) << 1,
            start: (wide(crtc::START_HIGH) << 8 | wide(crtc::START_LOW))
                .saturating_add(usize::from(preset >> 5 & 3)),
            first_row: usize::from(preset & 0x1f),
            line_compare,
            // Characters of nine dots count from 8, which is none.
            panning: if nine { panning.saturating_add(1).checked_rem(9).unwrap_or(0) } else { panning & 7 },
            panning_above: r.attribute(attribute::MODE) & attribute::PANNING_ABOVE != 0,
            mode: r.crtc(crtc::MODE),
        })
    }

    /// Pixels in a line of the picture.
    pub(super) fn width(&self) -> usize {
        self.columns.saturating_mul(self.dots).saturating_mul(self.zoom)
    }

    /// Rows of characters.
    pub(super) fn text_rows(&self) -> usize {
        let rows = self.last_row.saturating_add(1) << u32::from(self.double_scan);
        self.lines.checked_div(rows).unwrap_or(0)
    }

    /// The address counter at the begin of a row of characters.
    pub(super) fn text_row(&self, row: usize) -> usize {
        self.start.saturating_add(self.offset.saturating_mul(row))
    }

    /// What is at the begin of a line.
    pub(super) fn line(&self, y: usize) -> Line {
        let mode = self.mode;
        // Behind the line compare it is as if the screen began, at the begin of memory.
        let (y, start, first_row, panning) = match y.checked_sub(self.line_compare.saturating_add(1)) {
            Some(y) => (y, 0, 0, if self.panning_above { 0 } else { self.panning }),
            None => (y, self.start, self.first_row, self.panning),
        };
        let rows = (y >> u32::from(self.double_scan)).saturating_add(first_row);
        let height = self.last_row.saturating_add(1);
        let counter = rows.checked_div(height).unwrap_or(0).saturating_mul(self.offset).saturating_add(start);
        Line { counter, row: rows.checked_rem(height).unwrap_or(0), panning, mode }
    }
}

impl Line {
    /// The address counter in column `x`, as far as it has bits.
    pub(super) fn counter(&self, x: usize) -> usize {
        self.counter.saturating_add(x) & COUNTER
    }

    /// Where in memory the unit in column `x` begins.
    pub(super) fn unit(&self, x: usize) -> usize {
        // Addresses of words are the counter moved by one bit, so that address bit 13 is the counter's bit 12.
        let bit_13 = if self.mode & crtc::BYTES != 0 { 1 << 13 } else { 1 << 12 };
        let replaced = |counter: usize, from_row: bool, bit: usize, row: usize| match (from_row, row != 0) {
            (false, _) => counter,
            (true, false) => counter & !bit,
            (true, true) => counter | bit,
        };
        let counter = self.counter(x);
        let counter = replaced(counter, self.mode & crtc::ADDRESS_13 == 0, bit_13, self.row & 1);
        let counter = replaced(counter, self.mode & crtc::ADDRESS_14 == 0, bit_13 << 1, self.row & 2);
        counter << 2
    }
}
