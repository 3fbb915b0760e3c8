//! What the ports, the window and the PCI function of a VGA are sides of.

use super::state::{COLORS, DispiState, PAGE, Page, Registers, VgaState};

/// Bytes of video memory.
pub(super) const MEMORY_SIZE: usize = 16 << 20;

/// Registers and video memory.
///
/// Byte `n` of plane `p` is byte `4 n + p` of memory. A unit is what four planes have in one place, 4 bytes; the CRT
/// controller counts units.
pub(super) struct Core {
    pub(super) registers: Registers,
    pub(super) dispi: DispiState,
    /// [`MEMORY_SIZE`] bytes.
    pub(super) memory: Vec<u8>,
}

impl Core {
    pub(super) fn new() -> Self {
        Self { registers: Registers::power_on(), dispi: DispiState::power_on(), memory: vec![0; MEMORY_SIZE] }
    }

    pub(super) fn reset(&mut self) {
        *self = Self::new();
    }

    pub(super) fn save(&self) -> VgaState {
        let pages = self.memory.chunks(PAGE).zip(0..);
        let memory = pages
            .filter(|(bytes, _)| bytes.iter().any(|&byte| byte != 0))
            .map(|(bytes, number)| Page { number, bytes: bytes.to_vec() })
            .collect();
        VgaState { registers: self.registers.clone(), dispi: self.dispi.clone(), memory }
    }

    /// Takes over a state, or says what is wrong with it.
    pub(super) fn restore(&mut self, state: VgaState) -> Result<(), &'static str> {
        let VgaState { registers, dispi, memory: pages } = state;
        if registers.dac.colors.len() != COLORS || registers.dac.component > 2 {
            return Err("its DAC is none");
        }
        let mut memory = vec![0; MEMORY_SIZE];
        for Page { number, bytes } in pages {
            let start = usize::try_from(number).ok().and_then(|number| number.checked_mul(PAGE));
            let place = start.and_then(|start| memory.get_mut(start..start.checked_add(PAGE)?));
            match place {
                Some(place) if bytes.len() == PAGE => place.copy_from_slice(&bytes),
                _ => return Err("it has video memory that is not there"),
            }
        }
        if !dispi.can_be() {
            return Err("its mode does not fit video memory");
        }
        *self = Self { registers, dispi, memory };
        Ok(())
    }
}
