//! The 8259A pair: a master, and a slave behind its input 2.

mod chip;
mod regs;
mod state;

use crate::layout::{PIC_CASCADE_IRQ, PIC_ELCR, PIC_MASTER, PIC_SLAVE};

use state::ChipState;
pub(super) use state::PicState;

/// The inputs of the master and of the slave that can be made level-triggered: not those of the PIT, the
/// keyboard, the cascade, the RTC and the FPU.
const LEVEL_CAPABLE: [u8; 2] = [0xf8, 0xde];

/// The pair.
#[derive(Debug)]
pub(super) struct Pic {
    master: ChipState,
    slave: ChipState,
}

impl Pic {
    /// After power-on.
    pub(super) fn new() -> Self {
        Self { master: ChipState::new(), slave: ChipState::new() }
    }

    /// After power-on, with the lines as they are.
    pub(super) fn reset(&mut self) {
        self.slave.reset();
        self.master.reset();
        self.cascade();
    }

    /// Line `irq` (0 to 15) is asserted or let go.
    pub(super) fn set_line(&mut self, irq: u8, asserted: bool) {
        match irq {
            PIC_CASCADE_IRQ => {}
            0..8 => self.master.set_line(irq, asserted),
            8..16 => self.slave.set_line(irq & 7, asserted),
            _ => {}
        }
        self.cascade();
    }

    /// Whether INTR is asserted.
    pub(super) fn intr(&self) -> bool {
        self.master.pending(chip::bit(PIC_CASCADE_IRQ)).is_some()
    }

    /// The acknowledge cycle: the vector, or `None` if INTR is not asserted.
    pub(super) fn acknowledge(&mut self) -> Option<u8> {
        let irq = self.master.pending(chip::bit(PIC_CASCADE_IRQ))?;
        self.master.acknowledge(irq);
        if irq != PIC_CASCADE_IRQ {
            return Some(self.master.vector(irq));
        }
        // Where the slave's request has gone away it answers with its input 7 (a spurious interrupt) and puts
        // nothing in service.
        let vector = match self.slave.pending(0) {
            Some(irq) => {
                self.slave.acknowledge(irq);
                self.slave.vector(irq)
            }
            None => self.slave.vector(7),
        };
        self.cascade();
        Some(vector)
    }

    /// Reads a byte at one of the pair's ports.
    pub(super) fn read(&mut self, port: u16) -> u8 {
        let value = match port {
            PIC_MASTER | PIC_MASTER_DATA if self.master.poll => {
                self.master.take_poll(chip::bit(PIC_CASCADE_IRQ))
            }
            PIC_SLAVE | PIC_SLAVE_DATA if self.slave.poll => self.slave.take_poll(0),
            PIC_MASTER => self.master.read_command(),
            PIC_SLAVE => self.slave.read_command(),
            PIC_MASTER_DATA => self.master.mask,
            PIC_SLAVE_DATA => self.slave.mask,
            PIC_ELCR => self.master.level_triggered,
            PIC_ELCR_SLAVE => self.slave.level_triggered,
            _ => 0xff,
        };
        self.cascade();
        value
    }

    /// Writes a byte to one of the pair's ports.
    pub(super) fn write(&mut self, port: u16, value: u8) {
        let [master_levels, slave_levels] = LEVEL_CAPABLE;
        match port {
            PIC_MASTER => self.master.write_command(value),
            PIC_SLAVE => self.slave.write_command(value),
            PIC_MASTER_DATA => self.master.write_data(value),
            PIC_SLAVE_DATA => self.slave.write_data(value),
            PIC_ELCR => self.master.set_level_triggered(value & master_levels),
            PIC_ELCR_SLAVE => self.slave.set_level_triggered(value & slave_levels),
            _ => {}
        }
        self.cascade();
    }

    /// What is saved of it.
    pub(super) fn save(&self) -> PicState {
        PicState { chips: [self.master.clone(), self.slave.clone()] }
    }

    /// Takes over a saved state, after checking what its users rely on.
    pub(super) fn restore(&mut self, state: PicState) {
        let [mut master, mut slave] = state.chips;
        for chip in [&mut master, &mut slave] {
            chip.lowest &= 7;
            chip.vector_base &= 0xf8;
        }
        (self.master, self.slave) = (master, slave);
    }

    /// Brings the slave's INTR to the master. It is sensed by level, so that a second request of the slave
    /// is not lost behind a first.
    fn cascade(&mut self) {
        self.master.set_level(PIC_CASCADE_IRQ, self.slave.pending(0).is_some());
    }
}

/// The master's data port.
const PIC_MASTER_DATA: u16 = PIC_MASTER + 1;
/// The slave's data port.
const PIC_SLAVE_DATA: u16 = PIC_SLAVE + 1;
/// The slave's edge/level control register.
const PIC_ELCR_SLAVE: u16 = PIC_ELCR + 1;

#[cfg(test)]
mod tests;
