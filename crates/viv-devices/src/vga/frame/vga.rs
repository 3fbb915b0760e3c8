//! Pictures of the VGA's own modes: text, planes, 256 colours, and the CGA's.

use super::super::core::Core;
use super::super::regs::{attribute, crtc, graphics, sequencer};
use super::super::state::Registers;
use super::scan::{Line, Raster};
use super::{Frame, cp437};

/// What a mode of the VGA shows.
pub(super) fn frame(core: &Core, raster: &Raster) -> Frame {
    let r = &core.registers;
    let is_text = r.graphics(graphics::MISC) & graphics::GRAPHICS == 0;
    let characters = Characters::new(r);
    // One more column, for what panning moves in.
    let columns = raster.columns.saturating_add(1);
    Frame::by_lines(raster.width(), raster.lines, |y, pixels| {
        let line = raster.line(y);
        let mut dots = Vec::with_capacity(columns.saturating_mul(9));
        for x in 0..columns {
            if is_text {
                characters.dots(core, &line, x, raster.dots, &mut dots);
            } else {
                dots.extend(graphics_dots(core, core.unit(line.unit(x))));
            }
        }
        let shown = dots.iter().skip(line.panning).flat_map(|dot| std::iter::repeat_n(dot, raster.zoom));
        pixels.extend(shown.take(raster.width()).flatten());
    })
}

/// The lines of characters of a text mode.
pub(super) fn text(core: &Core, raster: &Raster) -> Option<Vec<String>> {
    if core.registers.graphics(graphics::MISC) & graphics::GRAPHICS != 0 {
        return None;
    }
    let rows = 0..raster.text_rows();
    let line = |row| {
        let start = raster.text_row(row);
        let units = (start..).take(raster.columns).map(|counter| core.unit((counter & 0xffff) << 2));
        let line: String = units.map(|unit| cp437::character(unit as u8)).collect();
        line.trim_end().to_owned()
    };
    Some(rows.map(line).collect())
}

/// The eight pixels of a unit, in four planes.
pub(super) fn planar(unit: u32) -> impl Iterator<Item = u8> {
    let planes = unit.to_le_bytes();
    (0..8).rev().map(move |bit| {
        let bits = planes.iter().rev().map(|plane| plane.wrapping_shr(bit) & 1);
        bits.fold(0, |pixel, bit| pixel << 1 | bit)
    })
}

/// The colour of a pixel of 4 bits, by way of the palette.
pub(super) fn color_16(core: &Core, pixel: u8) -> [u8; 3] {
    let r = &core.registers;
    let select = r.attribute(attribute::COLOR_SELECT);
    let entry = r.attribute(pixel & r.attribute(attribute::PLANE_ENABLE) & 0x0f);
    let low = if r.attribute(attribute::MODE) & attribute::COLORS_16 == 0 {
        entry & 0x3f
    } else {
        (entry & 0x0f) | (select & 0x03) << 4
    };
    color_256(core, low | (select & 0x0c) << 4)
}

/// The colour of a pixel of 8 bits.
fn color_256(core: &Core, pixel: u8) -> [u8; 3] {
    core.registers.dac.color(pixel, core.dispi.dac_is_8_bits())
}

/// The eight dots of a unit in a graphics mode.
fn graphics_dots(core: &Core, unit: u32) -> [[u8; 3]; 8] {
    let mode = core.registers.graphics(graphics::MODE);
    let mut dots = [[0; 3]; 8];
    if mode & graphics::SHIFT_256 != 0 {
        // Each byte is a pixel of two dots.
        let pixels = unit.to_le_bytes().into_iter().flat_map(|pixel| [pixel; 2]);
        dots.iter_mut().zip(pixels).for_each(|(dot, pixel)| *dot = color_256(core, pixel));
    } else if mode & graphics::SHIFT_INTERLEAVE != 0 {
        // Planes 0 and 1 have four pixels each, one behind the other; 2 and 3 have their higher bits.
        let [a, b, c, d] = unit.to_le_bytes();
        let pair = |bits: u8, shift: u32| bits.wrapping_shr(shift) & 0b11;
        let pixels = [(a, c), (b, d)]
            .into_iter()
            .flat_map(|(low, high)| [6, 4, 2, 0].map(|shift| pair(low, shift) | pair(high, shift) << 2));
        dots.iter_mut().zip(pixels).for_each(|(dot, pixel)| *dot = color_16(core, pixel));
    } else {
        dots.iter_mut().zip(planar(unit)).for_each(|(dot, pixel)| *dot = color_16(core, pixel));
    }
    dots
}

/// How characters are drawn.
struct Characters {
    /// Where in plane 2 the fonts begin, without and with an attribute's bit 3.
    fonts: [usize; 2],
    /// The bits of an attribute that are the background's.
    background: u8,
    line_graphics: bool,
    underline: usize,
    /// Where the cursor is and which rows it has, if there is one.
    cursor: Option<(usize, std::ops::RangeInclusive<usize>)>,
}

impl Characters {
    fn new(r: &Registers) -> Self {
        // Numbers of 8 KiB blocks: the even ones, then the odd ones.
        let select = usize::from(r.sequencer(sequencer::FONTS));
        let font = |low: usize, high: usize| (low & 3) << 14 | (high & 1) << 13;
        let mode = r.attribute(attribute::MODE);
        let start = r.crtc(crtc::CURSOR_START);
        let wide = |index| usize::from(r.crtc(index));
        let cursor = (start & crtc::CURSOR_OFF == 0).then(|| {
            let rows = usize::from(start & 0x1f)..=wide(crtc::CURSOR_END) & 0x1f;
            (wide(crtc::CURSOR_HIGH) << 8 | wide(crtc::CURSOR_LOW), rows)
        });
        Self {
            fonts: [font(select, select >> 4), font(select >> 2, select >> 5)],
            background: if mode & attribute::BLINK != 0 { 0x07 } else { 0x0f },
            line_graphics: mode & attribute::LINE_GRAPHICS != 0,
            underline: wide(crtc::UNDERLINE) & 0x1f,
            cursor,
        }
    }

    /// Adds the dots of the character in column `x` of a line.
    fn dots(&self, core: &Core, line: &Line, x: usize, count: usize, dots: &mut Vec<[u8; 3]>) {
        let [character, shade, ..] = core.unit(line.unit(x)).to_le_bytes();
        let [without, with] = self.fonts;
        let font = if shade & 0x08 == 0 { without } else { with };
        let row = font | usize::from(character) << 5 | line.row;
        let [.., pattern, _] = core.unit(row << 2).to_le_bytes();
        let cursor =
            self.cursor.as_ref().is_some_and(|(at, rows)| *at == line.counter(x) && rows.contains(&line.row));
        let underlined = shade & 0x77 == 0x01 && line.row == self.underline;
        let pattern = if cursor || underlined { 0xff } else { pattern };
        let ninth =
            (cursor || underlined || self.line_graphics && character & 0xe0 == 0xc0) && pattern & 1 != 0;
        let foreground = color_16(core, shade & 0x0f);
        let background = color_16(core, shade >> 4 & self.background);
        let color = |set: bool| if set { foreground } else { background };
        dots.extend((0..8).rev().map(|bit| color(pattern.wrapping_shr(bit) & 1 != 0)));
        if count > 8 {
            dots.push(color(ninth));
        }
    }
}
