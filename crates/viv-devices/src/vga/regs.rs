//! Registers of the VGA (IBM VGA XGA Technical Reference, "VGA function") and of Bochs' display interface (DISPI,
//! VBE extension; QEMU, docs/specs/standard-vga).

/// The ports, in groups. CRTC, input status 1 and feature control move with [`misc::COLOR`]: what is named here at
/// 0x3dx is at 0x3bx without it.
pub(super) mod port {
    /// How far below their places here the ports of a monochrome adapter are.
    pub(in crate::vga) const MONOCHROME: u16 = 0x20;
    /// Attribute controller: index and, alternately, data (write); index (read).
    pub(in crate::vga) const ATTRIBUTE: u16 = 0x3c0;
    /// Attribute controller: data (read).
    pub(in crate::vga) const ATTRIBUTE_READ: u16 = 0x3c1;
    /// Input status 0 (read), miscellaneous output (write).
    pub(in crate::vga) const STATUS_0: u16 = 0x3c2;
    /// Video subsystem enable.
    pub(in crate::vga) const ENABLE: u16 = 0x3c3;
    /// Sequencer: index, then data.
    pub(in crate::vga) const SEQUENCER_INDEX: u16 = 0x3c4;
    pub(in crate::vga) const SEQUENCER: u16 = 0x3c5;
    /// DAC: mask of the pixels.
    pub(in crate::vga) const DAC_MASK: u16 = 0x3c6;
    /// DAC: state (read), index to read (write).
    pub(in crate::vga) const DAC_READ_INDEX: u16 = 0x3c7;
    /// DAC: index to write.
    pub(in crate::vga) const DAC_WRITE_INDEX: u16 = 0x3c8;
    /// DAC: red, green and blue in turn.
    pub(in crate::vga) const DAC: u16 = 0x3c9;
    /// Feature control (read).
    pub(in crate::vga) const FEATURE_READ: u16 = 0x3ca;
    /// Miscellaneous output (read).
    pub(in crate::vga) const MISC_READ: u16 = 0x3cc;
    /// Graphics controller: index, then data.
    pub(in crate::vga) const GRAPHICS_INDEX: u16 = 0x3ce;
    pub(in crate::vga) const GRAPHICS: u16 = 0x3cf;
    /// CRT controller: index, then data.
    pub(in crate::vga) const CRTC_INDEX: u16 = 0x3d4;
    pub(in crate::vga) const CRTC: u16 = 0x3d5;
    /// Input status 1 (read), feature control (write).
    pub(in crate::vga) const STATUS_1: u16 = 0x3da;
}

/// Bits of the miscellaneous output register.
pub(super) mod misc {
    /// The ports are those of a colour adapter.
    pub(in crate::vga) const COLOR: u8 = 1 << 0;
    /// The bits there are.
    pub(in crate::vga) const WRITABLE: u8 = 0xef;
}

/// Bits of input status 1.
pub(super) mod status_1 {
    /// Nothing is displayed at this moment.
    pub(in crate::vga) const BLANKING: u8 = 1 << 0;
    /// Vertical retrace.
    pub(in crate::vga) const RETRACE: u8 = 1 << 3;
}

/// Sequencer.
pub(super) mod sequencer {
    pub(in crate::vga) const CLOCKING: u8 = 1;
    pub(in crate::vga) const MAP_MASK: u8 = 2;
    pub(in crate::vga) const FONTS: u8 = 3;
    pub(in crate::vga) const MEMORY_MODE: u8 = 4;
    /// The bits there are in each register.
    pub(in crate::vga) const WRITABLE: [u8; 8] = [0x03, 0x3d, 0x0f, 0x3f, 0x0e, 0, 0, 0xff];
    /// Clocking: characters are 8 dots wide, not 9.
    pub(in crate::vga) const DOTS_8: u8 = 1 << 0;
    /// Clocking: every dot twice.
    pub(in crate::vga) const HALF_CLOCK: u8 = 1 << 3;
    /// Clocking: the screen is off.
    pub(in crate::vga) const SCREEN_OFF: u8 = 1 << 5;
    /// Memory mode: an address's two lowest bits choose the plane.
    pub(in crate::vga) const CHAIN_4: u8 = 1 << 3;
}

/// Graphics controller.
pub(super) mod graphics {
    pub(in crate::vga) const SET_RESET: u8 = 0;
    pub(in crate::vga) const ENABLE_SET_RESET: u8 = 1;
    pub(in crate::vga) const COLOR_COMPARE: u8 = 2;
    pub(in crate::vga) const ROTATE: u8 = 3;
    pub(in crate::vga) const READ_MAP: u8 = 4;
    pub(in crate::vga) const MODE: u8 = 5;
    pub(in crate::vga) const MISC: u8 = 6;
    pub(in crate::vga) const COLOR_CARE: u8 = 7;
    pub(in crate::vga) const BIT_MASK: u8 = 8;
    /// The bits there are in each register.
    pub(in crate::vga) const WRITABLE: [u8; 9] = [0x0f, 0x0f, 0x0f, 0x1f, 0x03, 0x7b, 0x0f, 0x0f, 0xff];
    /// Mode: reads compare with a colour.
    pub(in crate::vga) const READ_COMPARE: u8 = 1 << 3;
    /// Mode: an address's lowest bit chooses between two planes.
    pub(in crate::vga) const ODD_EVEN: u8 = 1 << 4;
    /// Mode: two bits of a byte are a pixel (the CGA's four colours).
    pub(in crate::vga) const SHIFT_INTERLEAVE: u8 = 1 << 5;
    /// Mode: eight bits are a pixel.
    pub(in crate::vga) const SHIFT_256: u8 = 1 << 6;
    /// Miscellaneous: graphics, no text.
    pub(in crate::vga) const GRAPHICS: u8 = 1 << 0;
}

/// CRT controller.
pub(super) mod crtc {
    pub(in crate::vga) const HORIZONTAL_END: u8 = 0x01;
    /// Bits 8 and 9 of others.
    pub(in crate::vga) const OVERFLOW: u8 = 0x07;
    pub(in crate::vga) const PRESET_ROW_SCAN: u8 = 0x08;
    pub(in crate::vga) const MAXIMUM_SCAN: u8 = 0x09;
    pub(in crate::vga) const CURSOR_START: u8 = 0x0a;
    pub(in crate::vga) const CURSOR_END: u8 = 0x0b;
    pub(in crate::vga) const START_HIGH: u8 = 0x0c;
    pub(in crate::vga) const START_LOW: u8 = 0x0d;
    pub(in crate::vga) const CURSOR_HIGH: u8 = 0x0e;
    pub(in crate::vga) const CURSOR_LOW: u8 = 0x0f;
    pub(in crate::vga) const VERTICAL_RETRACE_END: u8 = 0x11;
    pub(in crate::vga) const VERTICAL_END: u8 = 0x12;
    /// Of a row, in pairs of memory's units.
    pub(in crate::vga) const OFFSET: u8 = 0x13;
    pub(in crate::vga) const UNDERLINE: u8 = 0x14;
    pub(in crate::vga) const MODE: u8 = 0x17;
    pub(in crate::vga) const LINE_COMPARE: u8 = 0x18;
    /// How many there are.
    pub(in crate::vga) const COUNT: usize = 0x19;
    /// Overflow: bit 8 of the line compare, the one bit that is never protected.
    pub(in crate::vga) const OVERFLOW_LINE_COMPARE: u8 = 1 << 4;
    /// Vertical retrace end: registers 0 to 7 are protected.
    pub(in crate::vga) const PROTECT: u8 = 1 << 7;
    /// Maximum scan line: every line twice.
    pub(in crate::vga) const DOUBLE_SCAN: u8 = 1 << 7;
    /// Cursor start: there is no cursor.
    pub(in crate::vga) const CURSOR_OFF: u8 = 1 << 5;
    /// Mode: address bit 13 is the address counter's, not the row scan counter's lowest.
    pub(in crate::vga) const ADDRESS_13: u8 = 1 << 0;
    /// Mode: address bit 14 is the address counter's, not the row scan counter's second.
    pub(in crate::vga) const ADDRESS_14: u8 = 1 << 1;
    /// Mode: addresses are of bytes, not words.
    pub(in crate::vga) const BYTES: u8 = 1 << 6;
}

/// Attribute controller.
pub(super) mod attribute {
    /// Registers 0 to 15 are the palette.
    pub(in crate::vga) const MODE: u8 = 0x10;
    pub(in crate::vga) const PLANE_ENABLE: u8 = 0x12;
    pub(in crate::vga) const PANNING: u8 = 0x13;
    pub(in crate::vga) const COLOR_SELECT: u8 = 0x14;
    /// The bits there are in each register behind the palette, where they are 0x3f.
    pub(in crate::vga) const WRITABLE: [u8; 5] = [0xef, 0xff, 0x3f, 0x0f, 0x0f];
    /// How many there are.
    pub(in crate::vga) const COUNT: usize = 0x15;
    /// Index: its bits.
    pub(in crate::vga) const INDEX: u8 = 0x1f;
    /// Index: the palette is the display's. Without it the screen is blank.
    pub(in crate::vga) const PALETTE_SOURCE: u8 = 1 << 5;
    /// Mode: the ninth dot of characters 0xc0 to 0xdf repeats the eighth.
    pub(in crate::vga) const LINE_GRAPHICS: u8 = 1 << 2;
    /// Mode: an attribute's highest bit blinks, and is none of the background's.
    pub(in crate::vga) const BLINK: u8 = 1 << 3;
    /// Mode: panning does not apply behind the line compare.
    pub(in crate::vga) const PANNING_ABOVE: u8 = 1 << 5;
    /// Mode: bits 4 and 5 of a colour are in the colour select register.
    pub(in crate::vga) const COLORS_16: u8 = 1 << 7;
}

/// DISPI: registers of 16 bits by index.
pub(super) mod dispi {
    /// The index port.
    pub(in crate::vga) const INDEX_PORT: u16 = 0x1ce;
    /// The data port, and the one where some look for it because it is even.
    pub(in crate::vga) const DATA_PORT: u16 = 0x1cf;
    pub(in crate::vga) const DATA_PORT_EVEN: u16 = 0x1d0;

    pub(in crate::vga) const ID: u16 = 0;
    pub(in crate::vga) const WIDTH: u16 = 1;
    pub(in crate::vga) const HEIGHT: u16 = 2;
    pub(in crate::vga) const DEPTH: u16 = 3;
    pub(in crate::vga) const ENABLE: u16 = 4;
    pub(in crate::vga) const BANK: u16 = 5;
    pub(in crate::vga) const VIRTUAL_WIDTH: u16 = 6;
    pub(in crate::vga) const VIRTUAL_HEIGHT: u16 = 7;
    pub(in crate::vga) const X_OFFSET: u16 = 8;
    pub(in crate::vga) const Y_OFFSET: u16 = 9;
    /// The size of video memory, in units of 64 KiB.
    pub(in crate::vga) const MEMORY: u16 = 10;

    /// The versions of the interface; the last is what is there.
    pub(in crate::vga) const IDS: std::ops::RangeInclusive<u16> = 0xb0c0..=0xb0c5;

    /// Enable: the mode is on.
    pub(in crate::vga) const ENABLED: u16 = 1 << 0;
    /// Enable: width, height and depth read as the most there is.
    pub(in crate::vga) const CAPABILITIES: u16 = 1 << 1;
    /// Enable: the DAC takes 8 bits for each colour, not 6.
    pub(in crate::vga) const DAC_8_BITS: u16 = 1 << 5;
    /// Enable: memory is left as it is when the mode is set.
    pub(in crate::vga) const KEEP_MEMORY: u16 = 1 << 7;
}

/// BAR 2 of the PCI function.
pub(super) mod mmio {
    /// Its size.
    pub(in crate::vga) const SIZE: u64 = 0x1000;
    /// The VGA's ports from 0x3c0 to 0x3df.
    pub(in crate::vga) const PORTS: std::ops::Range<u64> = 0x400..0x420;
    /// DISPI's registers, one after the other.
    pub(in crate::vga) const DISPI: std::ops::Range<u64> = 0x500..0x516;
    /// The size of what follows from here on, 32 bits.
    pub(in crate::vga) const EXTENDED_SIZE: u64 = 0x600;
    /// The order of a pixel's bytes, 32 bits: one of the two values below.
    pub(in crate::vga) const BYTE_ORDER: u64 = 0x604;
    pub(in crate::vga) const LITTLE_ENDIAN: u32 = 0x1e1e_1e1e;
    pub(in crate::vga) const BIG_ENDIAN: u32 = 0xbebe_bebe;
}
