//! Pictures of DISPI's modes.

use super::super::core::Core;
use super::super::dispi::Mode;
use super::{Frame, vga};

/// What a mode of DISPI shows.
pub(super) fn frame(core: &Core, mode: Mode) -> Frame {
    Frame::by_lines(mode.width, mode.height, |y, pixels| {
        let start = mode.stride.saturating_mul(y).saturating_add(mode.start);
        if mode.depth == 4 {
            let units = (start..).step_by(4).take(mode.width >> 3).map(|at| core.unit(at));
            let colors = units.flat_map(vga::planar).map(|pixel| vga::color_16(core, pixel));
            pixels.extend(colors.flatten());
            return;
        }
        let line = core.memory.get(start..).unwrap_or_default();
        let bytes = usize::from(mode.depth).saturating_add(7) >> 3;
        let line = line.chunks_exact(bytes.max(1)).take(mode.width);
        pixels.extend(line.flat_map(|pixel| color(core, mode.depth, pixel)));
    })
}

/// The colour of a pixel, by its bytes in memory.
fn color(core: &Core, depth: u16, bytes: &[u8]) -> [u8; 3] {
    let big_endian = core.dispi.big_endian;
    let value = bytes.iter().rev().fold(0_u32, |value, &byte| value << 8 | u32::from(byte));
    let value = match bytes.len() {
        2 if big_endian => (value as u16).swap_bytes().into(),
        3 | 4 if big_endian => value.swap_bytes() >> if bytes.len() == 3 { 8 } else { 0 },
        _ => value,
    };
    // Fields of fewer bits are widened by their own highest bits, so that the brightest is 255.
    let five = |shift: u32| {
        let field = value.wrapping_shr(shift) as u8 & 0x1f;
        field << 3 | field >> 2
    };
    let six = |shift: u32| {
        let field = value.wrapping_shr(shift) as u8 & 0x3f;
        field << 2 | field >> 4
    };
    match depth {
        8 => core.registers.dac.color(value as u8, core.dispi.dac_is_8_bits()),
        15 => [five(10), five(5), five(0)],
        16 => [five(11), six(5), five(0)],
        _ => [(value >> 16) as u8, (value >> 8) as u8, value as u8],
    }
}
