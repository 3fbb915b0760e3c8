//! Video memory as processors reach it: through the window below 1 MiB, by planes or by banks, and as it is.

use super::core::Core;
use super::regs::{graphics, sequencer};

/// All bits of the planes in a mask.
fn spread(mask: u8) -> u32 {
    let mask = u32::from(mask);
    let lowest = (mask & 1) | (mask & 2) << 7 | (mask & 4) << 14 | (mask & 8) << 21;
    lowest.wrapping_mul(0xff)
}

/// `value` in each of the four planes.
fn repeat(value: u8) -> u32 {
    u32::from_le_bytes([value; 4])
}

/// How an access of a processor reaches memory.
enum Place {
    /// This byte, if all planes in the mask are enabled for writing.
    Byte { at: usize, plane: u8 },
    /// All four planes' bytes from here on.
    Unit(usize),
}

impl Core {
    /// Reads the byte at `offset` in the window from 0xa0000 to 0xbffff.
    pub(super) fn read_window(&mut self, offset: u64) -> u8 {
        match self.place(offset) {
            None => 0xff,
            Some(Place::Byte { at, .. }) => self.memory.get(at).copied().unwrap_or(0xff),
            Some(Place::Unit(at)) => {
                self.registers.latches = self.unit(at);
                self.read_latches()
            }
        }
    }

    /// Writes it.
    pub(super) fn write_window(&mut self, offset: u64, value: u8) {
        let enabled = self.registers.sequencer(sequencer::MAP_MASK);
        match self.place(offset) {
            None => {}
            Some(Place::Byte { at, plane }) => {
                if (enabled | !0x0f) & plane != 0
                    && let Some(byte) = self.memory.get_mut(at)
                {
                    *byte = value;
                }
            }
            Some(Place::Unit(at)) => {
                let mask = spread(enabled);
                let new = (self.planar(value) & mask) | (self.unit(at) & !mask);
                if let Some(unit) = self.memory.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
                    *unit = new.to_le_bytes();
                }
            }
        }
    }

    /// Reads `data.len()` bytes of memory as they are.
    pub(super) fn read_linear(&self, offset: u64, data: &mut [u8]) {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = self.memory.get(offset..).unwrap_or_default();
        for (index, byte) in data.iter_mut().enumerate() {
            *byte = rest.get(index).copied().unwrap_or(0xff);
        }
    }

    /// Writes them.
    pub(super) fn write_linear(&mut self, offset: u64, data: &[u8]) {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = self.memory.get_mut(offset..).unwrap_or_default();
        for (byte, new) in rest.iter_mut().zip(data) {
            *byte = *new;
        }
    }

    /// What the four planes have at a multiple of 4.
    pub(super) fn unit(&self, at: usize) -> u32 {
        let bytes = self.memory.get(at..).and_then(|rest| rest.first_chunk());
        bytes.map_or(0, |&bytes| u32::from_le_bytes(bytes))
    }

    fn place(&self, offset: u64) -> Option<Place> {
        let r = &self.registers;
        let bank = usize::from(self.dispi.bank) << 16;
        let offset = usize::try_from(offset).ok()?;
        if self.dispi.is_linear() {
            let at = (offset < 0x1_0000).then(|| bank.saturating_add(offset))?;
            return Some(Place::Byte { at, plane: u8::MAX });
        }
        // Which part of the window answers: bits 2 and 3.
        let within = match r.graphics(graphics::MISC) >> 2 & 0b11 {
            0 => offset,
            1 if offset < 0x1_0000 => offset.saturating_add(bank),
            2 if (0x1_0000..0x1_8000).contains(&offset) => offset & 0x7fff,
            3 if offset >= 0x1_8000 => offset & 0x7fff,
            _ => return None,
        };
        if r.sequencer(sequencer::MEMORY_MODE) & sequencer::CHAIN_4 != 0 {
            return Some(Place::Byte { at: within, plane: 1 << (within & 3) });
        }
        if r.graphics(graphics::MODE) & graphics::ODD_EVEN != 0 {
            let plane = usize::from(r.graphics(graphics::READ_MAP) & 2) | (within & 1);
            return Some(Place::Byte { at: (within & !1) << 1 | plane, plane: 1 << (plane & 3) });
        }
        Some(Place::Unit(within << 2))
    }

    /// The byte that a read of planes gives from the latches.
    fn read_latches(&self) -> u8 {
        let r = &self.registers;
        if r.graphics(graphics::MODE) & graphics::READ_COMPARE == 0 {
            let plane = r.graphics(graphics::READ_MAP) & 3;
            return r.latches.to_le_bytes().get(usize::from(plane)).copied().unwrap_or(0);
        }
        // A pixel is the colour if it differs in no plane that counts.
        let color = spread(r.graphics(graphics::COLOR_COMPARE));
        let differs = (r.latches ^ color) & spread(r.graphics(graphics::COLOR_CARE));
        differs.to_le_bytes().iter().fold(0xff, |same, plane| same & !plane)
    }

    /// What a write of `value` gives for each plane.
    fn planar(&self, value: u8) -> u32 {
        let r = &self.registers;
        let latches = r.latches;
        let rotate = r.graphics(graphics::ROTATE);
        let rotated = value.rotate_right(u32::from(rotate & 7));
        let set_reset = spread(r.graphics(graphics::SET_RESET));
        let (source, mask) = match r.graphics(graphics::MODE) & 3 {
            0 => {
                let enabled = spread(r.graphics(graphics::ENABLE_SET_RESET));
                let source = (repeat(rotated) & !enabled) | (set_reset & enabled);
                (source, r.graphics(graphics::BIT_MASK))
            }
            1 => return latches,
            2 => (spread(value), r.graphics(graphics::BIT_MASK)),
            _ => (set_reset, r.graphics(graphics::BIT_MASK) & rotated),
        };
        let combined = match rotate >> 3 & 3 {
            0 => source,
            1 => source & latches,
            2 => source | latches,
            _ => source ^ latches,
        };
        let mask = repeat(mask);
        (combined & mask) | (latches & !mask)
    }
}
