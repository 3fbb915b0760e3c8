use super::regs::{attribute, dispi, graphics, mmio, port, sequencer};
use super::*;
use crate::device::{Device, MemoryIo, PortIo};
use crate::pci::{ExpansionRom, PciDevice, PciError};
use crate::testing::{Places, Random, inb, outb, reset_gives_power_on_state};

mod pictures;

/// A display with its two sides.
struct Bench {
    display: Display,
    legacy: VgaLegacy,
    function: VgaFunction,
}

fn bench() -> Bench {
    let display = Display::new();
    let legacy = VgaLegacy::new(&display);
    let function = VgaFunction::new(&display, None).unwrap();
    Bench { display, legacy, function }
}

impl Bench {
    fn set(&mut self, port: u16, index: u8, value: u8) {
        PortIo::write(&mut self.legacy, port, &[index, value]);
    }

    fn get(&mut self, port: u16, index: u8) -> u8 {
        outb(&mut self.legacy, port, index);
        inb(&mut self.legacy, port + 1)
    }

    fn sequencer(&mut self, index: u8, value: u8) {
        self.set(port::SEQUENCER_INDEX, index, value);
    }

    fn graphics(&mut self, index: u8, value: u8) {
        self.set(port::GRAPHICS_INDEX, index, value);
    }

    fn crtc(&mut self, index: u8, value: u8) {
        self.set(port::CRTC_INDEX, index, value);
    }

    /// Leaves the palette to the display.
    fn attribute(&mut self, index: u8, value: u8) {
        inb(&mut self.legacy, port::STATUS_1);
        outb(&mut self.legacy, port::ATTRIBUTE, index | attribute::PALETTE_SOURCE);
        outb(&mut self.legacy, port::ATTRIBUTE, value);
    }

    fn dispi(&mut self, index: u16, value: u16) {
        PortIo::write(&mut self.legacy, dispi::INDEX_PORT, &index.to_le_bytes());
        PortIo::write(&mut self.legacy, dispi::DATA_PORT, &value.to_le_bytes());
    }

    fn dispi_value(&mut self, index: u16) -> u16 {
        let mut value = [0; 2];
        PortIo::write(&mut self.legacy, dispi::INDEX_PORT, &index.to_le_bytes());
        PortIo::read(&mut self.legacy, dispi::DATA_PORT, &mut value);
        u16::from_le_bytes(value)
    }

    fn write(&mut self, address: u64, bytes: &[u8]) {
        MemoryIo::write(&mut self.legacy, address - VgaLegacy::MEMORY.start, bytes);
    }

    fn read(&mut self, address: u64) -> u8 {
        let mut data = [0];
        MemoryIo::read(&mut self.legacy, address - VgaLegacy::MEMORY.start, &mut data);
        data[0]
    }

    /// Registers as they are for planes at 0xa0000, all written.
    fn planes(&mut self) {
        self.sequencer(sequencer::MAP_MASK, 0x0f);
        self.sequencer(sequencer::MEMORY_MODE, 0x06);
        self.graphics(graphics::MISC, 0x05);
        self.graphics(graphics::BIT_MASK, 0xff);
        self.graphics(graphics::COLOR_CARE, 0x0f);
    }

    /// The four planes' bytes at an offset.
    fn unit(&self, offset: usize) -> [u8; 4] {
        self.display.lock().unit(offset << 2).to_le_bytes()
    }
}

#[test]
fn registers_have_the_bits_there_are() {
    let mut b = bench();
    outb(&mut b.legacy, port::STATUS_0, 0xff);
    assert_eq!(inb(&mut b.legacy, port::MISC_READ), 0xef);
    b.sequencer(sequencer::MAP_MASK, 0xff);
    assert_eq!(b.get(port::SEQUENCER_INDEX, sequencer::MAP_MASK), 0x0f);
    b.graphics(graphics::MODE, 0xff);
    assert_eq!(b.get(port::GRAPHICS_INDEX, graphics::MODE), 0x7b);
    for index in [9, 15] {
        b.graphics(index, 0xff);
        assert_eq!(b.get(port::GRAPHICS_INDEX, index), 0, "there is none");
    }
    b.attribute(0x03, 0xff);
    b.attribute(0x10, 0xff);
    for (index, expected) in [(0x03, 0x3f), (0x10, 0xef), (0x1f, 0)] {
        inb(&mut b.legacy, port::STATUS_1);
        outb(&mut b.legacy, port::ATTRIBUTE, index);
        assert_eq!(inb(&mut b.legacy, port::ATTRIBUTE_READ), expected, "attribute {index:#x}");
    }
}

#[test]
fn a_monochrome_adapter_has_other_ports() {
    let mut b = bench();
    PortIo::write(&mut b.legacy, 0x3b4, &[0x0e, 0x12]);
    assert_eq!((inb(&mut b.legacy, 0x3b5), inb(&mut b.legacy, 0x3d5)), (0x12, 0xff));
    outb(&mut b.legacy, port::STATUS_0, 1);
    assert_eq!((inb(&mut b.legacy, 0x3b5), inb(&mut b.legacy, 0x3d5)), (0xff, 0x12));
}

#[test]
fn timing_registers_can_be_protected() {
    let mut b = bench();
    outb(&mut b.legacy, port::STATUS_0, 1);
    b.crtc(0x11, 0x80);
    b.crtc(0x00, 0x5f);
    b.crtc(0x07, 0xff);
    b.crtc(0x08, 0x05);
    assert_eq!([0x00, 0x07, 0x08].map(|index| b.get(port::CRTC_INDEX, index)), [0x00, 0x10, 0x05]);
    b.crtc(0x11, 0x00);
    b.crtc(0x00, 0x5f);
    assert_eq!(b.get(port::CRTC_INDEX, 0x00), 0x5f);
}

#[test]
fn whoever_waits_for_a_retrace_sees_it_come_and_go() {
    let mut b = bench();
    outb(&mut b.legacy, port::STATUS_0, 1);
    let seen: Vec<u8> = (0..4).map(|_| inb(&mut b.legacy, port::STATUS_1) & 9).collect();
    assert_eq!(seen, [9, 0, 9, 0]);
}

#[test]
fn the_dac_takes_colours_whole() {
    let mut b = bench();
    outb(&mut b.legacy, port::DAC_WRITE_INDEX, 0xfe);
    for value in [0x3f, 0x20, 0xff, 1, 2, 3, 9, 9] {
        outb(&mut b.legacy, port::DAC, value);
    }
    outb(&mut b.legacy, port::DAC_READ_INDEX, 0xfe);
    assert_eq!(inb(&mut b.legacy, port::DAC_READ_INDEX), 3);
    let read: Vec<u8> = (0..9).map(|_| inb(&mut b.legacy, port::DAC)).collect();
    assert_eq!(read, [0x3f, 0x20, 0x3f, 1, 2, 3, 0, 0, 0], "the last colour lacks its blue");
    assert_eq!(b.display.lock().registers.dac.color(0xfe, false), [0xff, 0x82, 0xff]);
    b.dispi(dispi::ENABLE, dispi::DAC_8_BITS);
    assert_eq!(b.display.lock().registers.dac.color(0xfe, true), [0x3f, 0x20, 0x3f]);
    outb(&mut b.legacy, port::DAC_WRITE_INDEX, 7);
    for value in [0xff, 0xfe, 0xfd] {
        outb(&mut b.legacy, port::DAC, value);
    }
    assert_eq!(b.display.lock().registers.dac.color(7, true), [0xff, 0xfe, 0xfd]);
}

#[test]
fn write_modes_combine_processor_latches_and_registers() {
    let mut b = bench();
    b.planes();
    b.write(0xa_0000, &[0b1100_0011]);
    assert_eq!(b.unit(0), [0b1100_0011; 4]);

    // Mode 0: rotation, set/reset for some planes, the bit mask from the latches, the map mask.
    b.graphics(graphics::ROTATE, 4);
    b.graphics(graphics::SET_RESET, 0b0001);
    b.graphics(graphics::ENABLE_SET_RESET, 0b0011);
    b.graphics(graphics::BIT_MASK, 0b0000_1111);
    b.sequencer(sequencer::MAP_MASK, 0b0111);
    b.read(0xa_0000);
    b.write(0xa_0000, &[0b0101_1010]);
    assert_eq!(b.unit(0), [0b1100_1111, 0b1100_0000, 0b1100_0101, 0b1100_0011]);

    // Mode 1: the latches.
    b.sequencer(sequencer::MAP_MASK, 0b1010);
    b.read(0xa_0000);
    b.graphics(graphics::MODE, 1);
    b.write(0xa_0001, &[0xaa]);
    assert_eq!(b.unit(1), [0, 0b1100_0000, 0, 0b1100_0011]);

    // Mode 2: a colour for the masked bits.
    b.sequencer(sequencer::MAP_MASK, 0x0f);
    b.graphics(graphics::ROTATE, 0);
    b.graphics(graphics::MODE, 2);
    b.graphics(graphics::BIT_MASK, 0b1000_0001);
    b.read(0xa_0002);
    b.write(0xa_0002, &[0b0101]);
    assert_eq!(b.unit(2), [0b1000_0001, 0, 0b1000_0001, 0]);

    // Mode 3: the set/reset colour for the bits that the processor gives.
    b.graphics(graphics::MODE, 3);
    b.graphics(graphics::SET_RESET, 0b1100);
    b.graphics(graphics::BIT_MASK, 0b1111_0000);
    b.read(0xa_0003);
    b.write(0xa_0003, &[0b0011_1100]);
    assert_eq!(b.unit(3), [0, 0, 0b0011_0000, 0b0011_0000]);
}

#[test]
fn logical_functions_use_the_latches() {
    for (function, expected) in [(0, 0b1010), (1, 0b1000), (2, 0b1110), (3, 0b0110)] {
        let mut b = bench();
        b.planes();
        b.write(0xa_0000, &[0b1100]);
        b.read(0xa_0000);
        b.graphics(graphics::ROTATE, function << 3);
        b.write(0xa_0000, &[0b1010]);
        assert_eq!(b.unit(0), [expected; 4], "function {function}");
    }
}

#[test]
fn read_modes_give_a_plane_or_compare() {
    let mut b = bench();
    b.planes();
    for plane in 0..4 {
        b.sequencer(sequencer::MAP_MASK, 1 << plane);
        b.write(0xa_0000, &[[0b1010, 0b1100, 0b1111, 0b0000][plane]]);
    }
    for (plane, expected) in [(0, 0b1010), (1, 0b1100), (3, 0)] {
        b.graphics(graphics::READ_MAP, plane);
        assert_eq!(b.read(0xa_0000), expected);
    }
    b.graphics(graphics::MODE, graphics::READ_COMPARE);
    b.graphics(graphics::COLOR_COMPARE, 0b0101);
    assert_eq!(b.read(0xa_0000), 0b0010);
    b.graphics(graphics::COLOR_CARE, 0b0100);
    assert_eq!(b.read(0xa_0000), 0b1111);
    b.graphics(graphics::COLOR_CARE, 0);
    assert_eq!(b.read(0xa_0000), 0xff);
}

#[test]
fn addresses_choose_planes_where_they_are_told_to() {
    let mut b = bench();
    b.planes();
    b.sequencer(sequencer::MEMORY_MODE, 0x0e);
    b.write(0xa_0004, &[1, 2, 3, 4]);
    assert_eq!(b.unit(1), [1, 2, 3, 4], "chained");
    b.sequencer(sequencer::MAP_MASK, 0b0010);
    b.write(0xa_0004, &[9, 9, 9, 9]);
    assert_eq!(b.unit(1), [1, 9, 3, 4]);

    b.sequencer(sequencer::MAP_MASK, 0b0011);
    b.sequencer(sequencer::MEMORY_MODE, 0x02);
    b.graphics(graphics::MODE, graphics::ODD_EVEN);
    b.graphics(graphics::MISC, 0x0e);
    b.write(0xb_8004, b"A\x07");
    assert_eq!(b.unit(2), [b'A', 7, 0, 0], "text");
    assert_eq!((b.read(0xb_8004), b.read(0xb_8005)), (b'A', 7));
}

#[test]
fn the_window_has_four_places() {
    for (map, inside, outside) in [
        (0, 0xb_fff0, None),
        (1, 0xa_fff0, Some(0xb_0000)),
        (2, 0xb_7ff0, Some(0xb_8000)),
        (3, 0xb_8000, Some(0xb_7fff)),
    ] {
        let mut b = bench();
        b.planes();
        b.graphics(graphics::MISC, 1 | map << 2);
        b.write(inside, &[0x5a]);
        assert_eq!(b.read(inside), 0x5a);
        if let Some(outside) = outside {
            b.write(outside, &[0x5a]);
            assert_eq!(b.read(outside), 0xff, "map {map}");
        }
    }
}

#[test]
fn dispi_makes_modes_that_fit() {
    let mut b = bench();
    assert_eq!(b.dispi_value(dispi::ID), 0xb0c5);
    b.dispi(dispi::ID, 0xb0c2);
    b.dispi(dispi::ID, 0x1234);
    assert_eq!(b.dispi_value(dispi::ID), 0xb0c2);
    assert_eq!(b.dispi_value(dispi::MEMORY), 256);
    b.dispi(dispi::ENABLE, dispi::CAPABILITIES);
    assert_eq!([1, 2, 3].map(|index| b.dispi_value(index)), [4096, 4096, 32]);
    for (index, value) in [(dispi::WIDTH, 1023), (dispi::HEIGHT, 768), (dispi::DEPTH, 32)] {
        b.dispi(index, value);
    }
    b.dispi(dispi::ENABLE, dispi::ENABLED);
    assert_eq!([1, 2, 3, 6, 7].map(|index| b.dispi_value(index)), [1016, 768, 32, 1016, 4128]);
    b.dispi(dispi::VIRTUAL_WIDTH, 2048);
    b.dispi(dispi::X_OFFSET, 5000);
    b.dispi(dispi::Y_OFFSET, 5000);
    assert_eq!([6, 7, 8, 9].map(|index| b.dispi_value(index)), [2048, 2048, 1032, 1280]);
    for (width, height, depth) in [(u16::MAX, u16::MAX, 32), (0, 0, 7), (4096, 4096, 4), (4096, 4096, 24)] {
        for (index, value) in [(dispi::WIDTH, width), (dispi::HEIGHT, height), (dispi::DEPTH, depth)] {
            b.dispi(index, value);
        }
        let mode = b.display.lock().dispi.mode().unwrap();
        assert!(mode.start + mode.stride * mode.height <= 16 << 20, "{mode:?}");
        assert!(mode.width >= 8 && mode.height >= 1, "{mode:?}");
    }
}

#[test]
fn banks_and_bar_reach_the_same_memory() {
    let mut b = bench();
    for (index, value) in [(dispi::WIDTH, 640), (dispi::HEIGHT, 480), (dispi::DEPTH, 8)] {
        b.dispi(index, value);
    }
    b.function.bar_write(0, 0x1_2345, &[7]);
    b.dispi(dispi::ENABLE, dispi::ENABLED | dispi::KEEP_MEMORY);
    b.dispi(dispi::BANK, 1);
    assert_eq!(b.read(0xa_2345), 7);
    b.write(0xa_2345, &[1, 2, 3, 4, 5, 6, 7, 8]);
    let mut data = [0; 8];
    b.function.bar_read(0, 0x1_2345, &mut data);
    assert_eq!(data, [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(b.read(0xb_0000), 0xff);
    b.dispi(dispi::ENABLE, 0);
    assert_eq!(b.dispi_value(dispi::BANK), 0);
    b.dispi(dispi::ENABLE, dispi::ENABLED);
    b.function.bar_read(0, 0x1_2345, &mut data);
    assert_eq!(data, [0; 8], "a new mode begins black");
}

#[test]
fn the_registers_are_in_a_bar_too() {
    let mut b = bench();
    let mut read = |offset, length: usize| {
        let mut data = vec![0; length];
        b.function.bar_read(2, offset, &mut data);
        data
    };
    assert_eq!(read(0x500, 2), [0xc5, 0xb0]);
    assert_eq!(read(0x600, 8), [8, 0, 0, 0, 0x1e, 0x1e, 0x1e, 0x1e]);
    assert_eq!(read(0, 8), [0; 8], "no EDID");
    b.function.bar_write(2, 0x500 + 2, &[0x00, 0x04, 0x00, 0x03]);
    assert_eq!((b.dispi_value(dispi::WIDTH), b.dispi_value(dispi::HEIGHT)), (1024, 768));
    b.function.bar_write(2, 0x402, &[1]);
    b.function.bar_write(2, 0x414, &[0x0e, 0x34]);
    assert_eq!(b.get(port::CRTC_INDEX, 0x0e), 0x34);
    b.function.bar_write(2, mmio::BYTE_ORDER, &mmio::BIG_ENDIAN.to_le_bytes());
    assert!(b.display.lock().dispi.big_endian);
}

#[test]
fn a_rom_must_be_the_displays() {
    let rom = |device: u8| {
        let mut bytes = vec![0; 0x8000];
        bytes[..2].copy_from_slice(&[0x55, 0xaa]);
        bytes[0x18] = 0x40;
        bytes[0x40..0x48].copy_from_slice(&[b'P', b'C', b'I', b'R', 0x34, 0x12, device, 0x11]);
        ExpansionRom::new(bytes).unwrap()
    };
    let mut function = VgaFunction::new(&Display::new(), Some(rom(0x11))).unwrap();
    let mut start = [0; 2];
    function.rom_read(0, &mut start);
    assert_eq!((start, function.config().rom_size()), ([0x55, 0xaa], Some(0x8000)));
    let error = VgaFunction::new(&Display::new(), Some(rom(0x12))).err().unwrap();
    assert!(matches!(&error, PciError::Rom { reason, .. } if reason.contains("1234:1112")), "{error}");
}

#[test]
fn a_restored_display_shows_the_same() {
    let mut b = bench();
    for (index, value) in [(dispi::WIDTH, 640), (dispi::HEIGHT, 480), (dispi::DEPTH, 32)] {
        b.dispi(index, value);
    }
    b.dispi(dispi::ENABLE, dispi::ENABLED);
    b.attribute(0, 0);
    b.function.bar_write(0, 640 * 4 * 100 + 40, &[1, 2, 3, 4]);
    let saved = b.legacy.save().unwrap();
    assert!(saved.data.len() < 8192, "memory that is zero is not saved");
    let config = b.function.save().unwrap();
    let mut other = bench();
    other.legacy.restore(&saved).unwrap();
    other.function.restore(&config).unwrap();
    assert_eq!(other.display.frame(), b.display.frame());

    let mut state = b.display.lock().save();
    state.memory[0].number = 4096;
    let damaged = crate::SavedState::encode("vga0", 1, &state).unwrap();
    assert!(other.legacy.restore(&damaged).is_err());
    let mut state = b.display.lock().save();
    state.dispi.height = u16::MAX;
    let damaged = crate::SavedState::encode("vga0", 1, &state).unwrap();
    assert!(other.legacy.restore(&damaged).is_err());
}

#[test]
fn a_reset_gives_the_state_after_power_on() {
    let fresh = || VgaLegacy::new(&Display::new());
    let places = Places { ports: &VgaLegacy::PORTS, memory: 0x2_0000 };
    reset_gives_power_on_state(fresh, &places);
}

#[test]
fn whatever_a_guest_writes_there_is_a_picture() {
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut b = bench();
    for round in 0..8000 {
        let data = random.next().to_le_bytes();
        match random.below(8) {
            0 => b.dispi(random.below(12) as u16, random.next() as u16),
            1 => b.dispi(dispi::ENABLE, (random.next() as u16) & 0xff),
            2 => b.write(0xa_0000 + random.below(0x2_0000), &data[..1 + random.below(8) as usize]),
            3 => b.function.bar_write(0, random.below(16 << 20), &data),
            4 => b.function.bar_write(2, 0x3f8 + random.below(0x220), &data[..1 << random.below(4)]),
            5 => b.attribute(random.next() as u8, data[0]),
            _ => {
                let port = 0x3c0 + random.below(0x20) as u16;
                b.set(port, data[0], data[1]);
            }
        }
        if round % 200 == 0 {
            let frame = b.display.frame();
            assert_eq!(frame.pixels.len(), 3 * frame.width * frame.height);
            let _ = b.display.text();
            let mut data = [0; 8];
            b.function.bar_read(2, random.below(0x1000 - 8), &mut data);
            b.function.bar_read(0, (16 << 20) - 4, &mut data);
        }
    }
}
