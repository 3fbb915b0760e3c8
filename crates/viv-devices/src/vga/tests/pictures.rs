//! What modes look like, with screens of few characters.

use super::super::regs::{attribute, crtc, dispi, graphics, mmio, port, sequencer};
use super::{Bench, bench};
use crate::pci::PciDevice;
use crate::testing::outb;

const BLACK: [u8; 3] = [0; 3];
const WHITE: [u8; 3] = [0xff; 3];

impl Bench {
    /// A mode of the VGA with so many columns and lines. Colour `n` of the palette is entry `n` of the DAC, which is
    /// grey: 1 is white, others are 4 times their number.
    fn mode(&mut self, columns: u8, lines: u8) {
        outb(&mut self.legacy, port::STATUS_0, 1);
        self.crtc(crtc::HORIZONTAL_END, columns - 1);
        self.crtc(crtc::VERTICAL_END, lines - 1);
        self.crtc(crtc::OFFSET, columns / 2);
        self.crtc(crtc::OVERFLOW, 0x10);
        self.crtc(crtc::MAXIMUM_SCAN, 0x40);
        self.crtc(crtc::LINE_COMPARE, 0xff);
        self.crtc(crtc::UNDERLINE, 0x1f);
        self.crtc(crtc::CURSOR_START, crtc::CURSOR_OFF);
        self.crtc(crtc::MODE, crtc::BYTES | crtc::ADDRESS_13 | crtc::ADDRESS_14);
        for color in 0..16 {
            self.attribute(color, color);
        }
        self.attribute(attribute::PLANE_ENABLE, 0x0f);
        outb(&mut self.legacy, port::DAC_WRITE_INDEX, 0);
        for color in 0..=255 {
            for _ in 0..3 {
                outb(&mut self.legacy, port::DAC, if color == 1 { 0x3f } else { color & 0x3f });
            }
        }
    }

    /// Adds text and a font of 4 rows, in which every row of character `c` is `c`.
    fn text_mode(&mut self, columns: u8, rows: u8) {
        self.mode(columns, rows * 4);
        self.crtc(crtc::MAXIMUM_SCAN, 0x43);
        self.planes();
        self.sequencer(sequencer::MAP_MASK, 1 << 2);
        for character in 0..256 {
            self.write(0xa_0000 + character * 32, &[character as u8; 4]);
        }
        self.sequencer(sequencer::MAP_MASK, 0b0011);
        self.sequencer(sequencer::CLOCKING, sequencer::DOTS_8);
        self.graphics(graphics::MODE, graphics::ODD_EVEN);
        self.graphics(graphics::MISC, 0x0e);
    }

    fn line(&self, y: usize) -> Vec<[u8; 3]> {
        let frame = self.display.frame();
        assert_eq!(frame.pixels.len(), 3 * frame.width * frame.height);
        let (pixels, _) = frame.pixels.as_chunks();
        pixels[y * frame.width..][..frame.width].to_vec()
    }

    /// A line's pixels as palette entries.
    fn greys(&self, y: usize) -> Vec<u8> {
        self.line(y).into_iter().map(|[red, ..]| if red == 0xff { 1 } else { red >> 2 }).collect()
    }

    fn size(&self) -> (usize, usize) {
        let frame = self.display.frame();
        (frame.width, frame.height)
    }
}

#[test]
fn a_display_without_a_mode_is_black() {
    let mut b = bench();
    assert_eq!(b.size(), (640, 480));
    assert_eq!(b.line(479), vec![BLACK; 640]);
    assert_eq!(b.display.text(), None);
    b.text_mode(2, 1);
    b.write(0xb_8000, &[0xff, 0x01]);
    assert_eq!(b.line(0)[..8], [WHITE; 8]);
    outb(&mut b.legacy, port::ATTRIBUTE, 0);
    assert_eq!((b.size(), b.line(0)), ((16, 4), vec![BLACK; 16]), "the palette is the processor's");
    outb(&mut b.legacy, port::ATTRIBUTE, 0);
    b.attribute(0, 0);
    b.sequencer(sequencer::CLOCKING, sequencer::DOTS_8 | sequencer::SCREEN_OFF);
    assert_eq!(b.line(0), vec![BLACK; 16]);
}

#[test]
fn text_has_characters_attributes_and_a_cursor() {
    let mut b = bench();
    b.text_mode(2, 2);
    b.write(0xb_8000, &[0b1010_0001, 0x21, 0x0f, 0x83, 0x00, 0x00, b'x', 0x71]);
    assert_eq!(b.size(), (16, 8));
    assert_eq!(b.greys(3), [1, 2, 1, 2, 2, 2, 2, 1, 8, 8, 8, 8, 3, 3, 3, 3]);
    assert_eq!(b.display.text().unwrap(), ["í☼", " x"]);
    b.attribute(attribute::MODE, attribute::BLINK);
    assert_eq!(b.greys(3)[8..12], [0; 4], "the bit is for blinking");
    b.crtc(crtc::CURSOR_START, 2);
    b.crtc(crtc::CURSOR_END, 3);
    b.crtc(crtc::CURSOR_LOW, 3);
    assert_eq!(b.greys(5)[8..], [7, 1, 1, 1, 1, 7, 7, 7]);
    assert_eq!((b.greys(6)[8..].to_vec(), b.greys(7)[8..].to_vec()), (vec![1; 8], vec![1; 8]));
    b.crtc(crtc::START_LOW, 2);
    assert_eq!(b.display.text().unwrap(), [" x", ""]);
}

#[test]
fn the_ninth_dot_joins_lines() {
    let mut b = bench();
    b.text_mode(2, 1);
    b.sequencer(sequencer::CLOCKING, 0);
    b.attribute(attribute::PANNING, 8);
    b.write(0xb_8000, &[0xdf, 0x01, 0xe1, 0x01]);
    assert_eq!(b.size(), (18, 4));
    assert_eq!(b.greys(0), [1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 0, 1, 0]);
    b.attribute(attribute::MODE, attribute::LINE_GRAPHICS);
    assert_eq!(b.greys(0)[7..], [1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 0]);
    b.sequencer(sequencer::CLOCKING, sequencer::HALF_CLOCK);
    assert_eq!((b.size(), b.greys(0)[..8].to_vec()), ((36, 4), vec![1, 1, 1, 1, 0, 0, 1, 1]));
}

#[test]
fn an_attribute_can_choose_the_font() {
    let mut b = bench();
    b.text_mode(2, 1);
    b.planes();
    b.graphics(graphics::MODE, 0);
    b.sequencer(sequencer::MAP_MASK, 1 << 2);
    b.write(0xa_2000 + 32 * 0x41, &[0xf0; 4]);
    b.sequencer(sequencer::MAP_MASK, 0b0011);
    b.graphics(graphics::MODE, graphics::ODD_EVEN);
    b.graphics(graphics::MISC, 0x0e);
    // Map A, for bit 3, is the fifth block; map B the first.
    b.sequencer(sequencer::FONTS, 0b10_0000);
    b.write(0xb_8000, &[0x41, 0x01, 0x41, 0x09]);
    assert_eq!(b.greys(0), [0, 1, 0, 0, 0, 0, 0, 1, 9, 9, 9, 9, 0, 0, 0, 0]);
}

#[test]
fn planes_make_sixteen_colours() {
    let mut b = bench();
    b.mode(2, 2);
    b.planes();
    for plane in 0..4 {
        b.sequencer(sequencer::MAP_MASK, 1 << plane);
        b.write(0xa_0003, &[[0b1010_1010, 0b1100_1100, 0b1111_0000, 0b1000_0001][plane]]);
    }
    assert_eq!(b.size(), (16, 2));
    assert_eq!(b.greys(0), [0; 16]);
    assert_eq!(b.greys(1)[8..], [15, 6, 5, 4, 3, 2, 1, 8]);
    b.attribute(attribute::PLANE_ENABLE, 0b0111);
    assert_eq!(b.greys(1)[8..], [7, 6, 5, 4, 3, 2, 1, 0]);
    b.attribute(attribute::COLOR_SELECT, 0b0001);
    b.attribute(attribute::MODE, attribute::COLORS_16);
    assert_eq!(b.greys(1)[8..10], [0x17, 0x16]);
    b.attribute(attribute::PANNING, 3);
    assert_eq!(b.greys(1)[5..8], [0x17, 0x16, 0x15], "moved to the left");
}

#[test]
fn bytes_make_256_colours_chained_or_not() {
    let mut b = bench();
    b.mode(2, 4);
    b.planes();
    b.crtc(crtc::MAXIMUM_SCAN, 0x41);
    b.graphics(graphics::MODE, graphics::SHIFT_256);
    b.sequencer(sequencer::MEMORY_MODE, 0x0e);
    b.write(0xa_0008, &[2, 3, 4, 5, 6, 7, 8, 9]);
    let expected: Vec<u8> = [2, 3, 4, 5, 6, 7, 8, 9].into_iter().flat_map(|pixel| [pixel; 2]).collect();
    assert_eq!([2, 3].map(|y| b.greys(y)), [expected.clone(), expected], "every line twice");
    // Mode X: the same memory by planes.
    b.sequencer(sequencer::MEMORY_MODE, 0x06);
    b.sequencer(sequencer::MAP_MASK, 1 << 1);
    b.write(0xa_0003, &[0x20]);
    assert_eq!(b.greys(2)[8..12], [6, 6, 0x20, 0x20]);
}

#[test]
fn the_cgas_modes_have_two_halves() {
    let mut b = bench();
    b.mode(2, 8);
    b.planes();
    // Rows of two halves, every line twice, in words.
    b.crtc(crtc::MAXIMUM_SCAN, 0xc1);
    b.crtc(crtc::MODE, crtc::ADDRESS_14);
    b.crtc(crtc::OFFSET, 1);
    b.graphics(graphics::MODE, graphics::ODD_EVEN | graphics::SHIFT_INTERLEAVE);
    b.graphics(graphics::MISC, 0x0f);
    b.write(0xb_8000, &[0b0001_1011, 0b1110_0100]);
    b.write(0xb_a000, &[0xff]);
    b.write(0xb_8004, &[0b0101_0101]);
    assert_eq!(b.greys(0)[..8], [0, 1, 2, 3, 3, 2, 1, 0]);
    assert_eq!(b.greys(1)[..4], [0, 1, 2, 3]);
    assert_eq!([2, 3].map(|y| b.greys(y)[0]), [3, 3]);
    assert_eq!(b.greys(4)[..5], [1, 1, 1, 1, 0]);
}

#[test]
fn behind_the_line_compare_memory_begins() {
    let mut b = bench();
    b.mode(2, 4);
    b.planes();
    b.sequencer(sequencer::MAP_MASK, 1);
    b.write(0xa_0000, &[0x80]);
    b.write(0xa_0010, &[0x40]);
    b.crtc(crtc::START_LOW, 0x10);
    b.crtc(crtc::OVERFLOW, 0);
    b.crtc(crtc::MAXIMUM_SCAN, 0);
    b.crtc(crtc::LINE_COMPARE, 1);
    assert_eq!([0, 2].map(|y| b.greys(y)[..2].to_vec()), [vec![0, 1], vec![1, 0]]);
}

#[test]
fn dispi_shows_every_depth() {
    for (depth, bytes, expected) in [
        (8, &[1, 2][..], [WHITE, [8; 3]]),
        (15, &[0x1f, 0x7c, 0xe0, 0x03], [[0xff, 0, 0xff], [0, 0xff, 0]]),
        (16, &[0x1f, 0xf8, 0xe0, 0x07], [[0xff, 0, 0xff], [0, 0xff, 0]]),
        (24, &[1, 2, 3, 4, 5, 6], [[3, 2, 1], [6, 5, 4]]),
        (32, &[1, 2, 3, 0, 4, 5, 6, 0], [[3, 2, 1], [6, 5, 4]]),
    ] {
        let mut b = bench();
        b.mode(80, 25);
        for (index, value) in [(dispi::WIDTH, 16), (dispi::HEIGHT, 8), (dispi::DEPTH, depth)] {
            b.dispi(index, value);
        }
        b.dispi(dispi::ENABLE, dispi::ENABLED);
        b.dispi(dispi::VIRTUAL_WIDTH, 24);
        b.dispi(dispi::X_OFFSET, 1);
        b.dispi(dispi::Y_OFFSET, 2);
        let pixel = u64::from(depth).div_ceil(8);
        b.function.bar_write(0, (24 * 3 + 2) * pixel, bytes);
        assert_eq!(b.size(), (16, 8));
        assert_eq!(b.line(1)[..4], [BLACK, expected[0], expected[1], BLACK], "{depth} bits");
    }
}

#[test]
fn pixels_can_have_their_highest_byte_first() {
    for (depth, bytes) in [(16, &[0xf8, 0x00][..]), (24, &[0xff, 0, 0]), (32, &[0, 0xff, 0, 0])] {
        let mut b = bench();
        b.mode(80, 25);
        b.dispi(dispi::DEPTH, depth);
        b.dispi(dispi::ENABLE, dispi::ENABLED);
        let order = mmio::BIG_ENDIAN.to_le_bytes();
        b.function.bar_write(2, mmio::BYTE_ORDER, &order);
        b.function.bar_write(0, 0, bytes);
        assert_eq!(b.line(0)[0], [0xff, 0, 0], "{depth} bits");
    }
}

#[test]
fn dispi_has_planes_in_four_bits() {
    let mut b = bench();
    b.mode(80, 25);
    b.planes();
    for (index, value) in [(dispi::WIDTH, 16), (dispi::HEIGHT, 2), (dispi::DEPTH, 4)] {
        b.dispi(index, value);
    }
    b.dispi(dispi::ENABLE, dispi::ENABLED);
    b.sequencer(sequencer::MAP_MASK, 0b0101);
    b.write(0xa_0003, &[0b1000_0000]);
    assert_eq!((b.size(), b.greys(1)[7..10].to_vec()), ((16, 2), vec![0, 5, 0]));
}
