//! The VGA's ports.

use super::core::Core;
use super::regs::{attribute, crtc, graphics, misc, port, sequencer, status_1};
use super::state::{DacState, Registers};

impl Registers {
    /// After power-on. Input status 1 alternates from here on.
    pub(super) fn power_on() -> Self {
        Self {
            misc: 0,
            feature: 0,
            enable: 1,
            status_1: 0,
            sequencer_index: 0,
            sequencer: [0; 8],
            graphics_index: 0,
            graphics: [0; 9],
            crtc_index: 0,
            crtc: [0; crtc::COUNT],
            attribute_index: 0,
            attribute_data: false,
            attribute: [0; attribute::COUNT],
            dac: DacState::power_on(),
            latches: 0,
        }
    }

    pub(super) fn sequencer(&self, index: u8) -> u8 {
        get(&self.sequencer, index)
    }

    pub(super) fn graphics(&self, index: u8) -> u8 {
        get(&self.graphics, index)
    }

    pub(super) fn crtc(&self, index: u8) -> u8 {
        get(&self.crtc, index)
    }

    pub(super) fn attribute(&self, index: u8) -> u8 {
        get(&self.attribute, index)
    }

    /// The port by its place on a colour adapter, if it answers there now.
    fn decode(&self, port: u16) -> Option<u16> {
        match (port, self.misc & misc::COLOR != 0) {
            (0x3b0..=0x3bf, false) => Some(port.saturating_add(port::MONOCHROME)),
            (0x3d0..=0x3df, true) | (0x3c0..=0x3cf, _) => Some(port),
            _ => None,
        }
    }

    fn write_attribute(&mut self, value: u8) {
        self.attribute_data = !self.attribute_data;
        if self.attribute_data {
            self.attribute_index = value & (attribute::INDEX | attribute::PALETTE_SOURCE);
            return;
        }
        let index = self.attribute_index & attribute::INDEX;
        let behind = index.checked_sub(attribute::MODE);
        let writable = behind.map_or(0x3f, |behind| get(&attribute::WRITABLE, behind));
        set(&mut self.attribute, index, value & writable);
    }

    fn write_crtc(&mut self, value: u8) {
        let index = self.crtc_index;
        let protected = self.crtc(crtc::VERTICAL_RETRACE_END) & crtc::PROTECT != 0;
        let value = match index {
            0..crtc::OVERFLOW if protected => return,
            crtc::OVERFLOW if protected => {
                let open = crtc::OVERFLOW_LINE_COMPARE;
                (self.crtc(crtc::OVERFLOW) & !open) | (value & open)
            }
            _ => value,
        };
        set(&mut self.crtc, index, value);
    }
}

impl Core {
    /// Reads a port from 0x3b0 to 0x3df.
    pub(super) fn read_port(&mut self, port: u16) -> u8 {
        let dac_bits = self.dispi.dac_bits();
        let r = &mut self.registers;
        match r.decode(port) {
            // While data is awaited the index does not read.
            Some(port::ATTRIBUTE) if r.attribute_data => 0,
            Some(port::ATTRIBUTE) => r.attribute_index,
            Some(port::ATTRIBUTE_READ) => r.attribute(r.attribute_index & attribute::INDEX),
            Some(port::STATUS_0) => 0,
            Some(port::ENABLE) => r.enable,
            Some(port::SEQUENCER_INDEX) => r.sequencer_index,
            Some(port::SEQUENCER) => r.sequencer(r.sequencer_index),
            Some(port::DAC_MASK) => r.dac.mask,
            Some(port::DAC_READ_INDEX) => r.dac.direction(),
            Some(port::DAC_WRITE_INDEX) => r.dac.index,
            Some(port::DAC) => r.dac.read() & dac_bits,
            Some(port::FEATURE_READ) => r.feature,
            Some(port::MISC_READ) => r.misc,
            Some(port::GRAPHICS_INDEX) => r.graphics_index,
            Some(port::GRAPHICS) => r.graphics(r.graphics_index),
            Some(port::CRTC_INDEX) => r.crtc_index,
            Some(port::CRTC) => r.crtc(r.crtc_index),
            Some(port::STATUS_1) => {
                r.attribute_data = false;
                // Whoever waits for a retrace waits for both its begin and its end.
                r.status_1 ^= status_1::RETRACE | status_1::BLANKING;
                r.status_1
            }
            _ => 0xff,
        }
    }

    /// Writes a port from 0x3b0 to 0x3df.
    pub(super) fn write_port(&mut self, port: u16, value: u8) {
        let dac_bits = self.dispi.dac_bits();
        let r = &mut self.registers;
        match r.decode(port) {
            Some(port::ATTRIBUTE) => r.write_attribute(value),
            Some(port::STATUS_0) => r.misc = value & misc::WRITABLE,
            Some(port::ENABLE) => r.enable = value & 1,
            Some(port::SEQUENCER_INDEX) => r.sequencer_index = value & 7,
            Some(port::SEQUENCER) => {
                let index = r.sequencer_index;
                set(&mut r.sequencer, index, value & get(&sequencer::WRITABLE, index));
            }
            Some(port::DAC_MASK) => r.dac.mask = value,
            Some(port::DAC_READ_INDEX) => r.dac.set_index(value, true),
            Some(port::DAC_WRITE_INDEX) => r.dac.set_index(value, false),
            Some(port::DAC) => r.dac.write(value & dac_bits),
            Some(port::GRAPHICS_INDEX) => r.graphics_index = value & 0x0f,
            Some(port::GRAPHICS) => {
                let index = r.graphics_index;
                set(&mut r.graphics, index, value & get(&graphics::WRITABLE, index));
            }
            Some(port::CRTC_INDEX) => r.crtc_index = value,
            Some(port::CRTC) => r.write_crtc(value),
            Some(port::STATUS_1) => r.feature = value & 0x10,
            _ => {}
        }
    }
}

/// A register by its index; one that is not there reads as zero.
fn get(registers: &[u8], index: u8) -> u8 {
    registers.get(usize::from(index)).copied().unwrap_or(0)
}

fn set(registers: &mut [u8], index: u8, value: u8) {
    if let Some(register) = registers.get_mut(usize::from(index)) {
        *register = value;
    }
}
