//! The DAC: 256 colours, written and read component by component.

use super::state::{COLORS, DacState};

/// DAC state register: the index was given for reading.
const STATE_READ: u8 = 0b11;

impl DacState {
    /// After power-on: all colours are black.
    pub(super) fn power_on() -> Self {
        Self {
            mask: 0xff,
            index: 0,
            reads: false,
            component: 0,
            pending: [0; 2],
            colors: vec![[0; 3]; COLORS],
        }
    }

    pub(super) fn set_index(&mut self, index: u8, reads: bool) {
        self.index = index;
        self.reads = reads;
        self.component = 0;
    }

    /// What the state register says.
    pub(super) fn direction(&self) -> u8 {
        if self.reads { STATE_READ } else { 0 }
    }

    pub(super) fn read(&mut self) -> u8 {
        let color = self.colors.get(usize::from(self.index)).copied().unwrap_or_default();
        let value = color.get(usize::from(self.component)).copied().unwrap_or(0);
        self.advance();
        value
    }

    /// A colour changes when its blue is written.
    pub(super) fn write(&mut self, value: u8) {
        match self.pending.get_mut(usize::from(self.component)) {
            Some(pending) => *pending = value,
            None => {
                let [red, green] = self.pending;
                if let Some(color) = self.colors.get_mut(usize::from(self.index)) {
                    *color = [red, green, value];
                }
            }
        }
        self.advance();
    }

    fn advance(&mut self) {
        if self.component < 2 {
            self.component = self.component.saturating_add(1);
        } else {
            self.component = 0;
            self.index = self.index.wrapping_add(1);
        }
    }

    /// The colour of a pixel, as 8 bits each of red, green and blue.
    pub(super) fn color(&self, pixel: u8, eight_bits: bool) -> [u8; 3] {
        let color = self.colors.get(usize::from(pixel & self.mask)).copied().unwrap_or_default();
        color.map(|value| if eight_bits { value } else { (value << 2) | (value >> 4 & 0b11) })
    }
}
