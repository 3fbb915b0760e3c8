//! One 8259A.
//!
//! Its working state is [`ChipState`] itself: every bit of it is architectural.

use super::regs::{Icw1, Icw4, Ocw2, Ocw3};
use super::state::{ChipState, Initialization};

impl ChipState {
    /// After power-on.
    pub(super) fn new() -> Self {
        Self {
            lines: 0,
            requests: 0,
            in_service: 0,
            mask: 0,
            level_triggered: 0,
            vector_base: 0,
            lowest: 7,
            initialization: Initialization::Done,
            needs_icw4: false,
            single: false,
            auto_eoi: false,
            rotate_in_auto_eoi: false,
            special_fully_nested: false,
            special_mask: false,
            poll: false,
            reads_in_service: false,
        }
    }

    /// After power-on, with the inputs as they are: those that are asserted make no edge.
    pub(super) fn reset(&mut self) {
        *self = Self { lines: self.lines, ..Self::new() };
    }

    /// Input `irq` (0 to 7) is asserted or let go.
    pub(super) fn set_line(&mut self, irq: u8, asserted: bool) {
        let bit = bit(irq);
        if self.level_triggered & bit != 0 {
            return self.set_level(irq, asserted);
        }
        if asserted && self.lines & bit == 0 {
            self.requests |= bit;
        }
        set_bit(&mut self.lines, bit, asserted);
    }

    /// Like [`Self::set_line`] for an input that is sensed by level, whatever ELCR says.
    pub(super) fn set_level(&mut self, irq: u8, asserted: bool) {
        set_bit(&mut self.lines, bit(irq), asserted);
        set_bit(&mut self.requests, bit(irq), asserted);
    }

    /// Says which inputs are sensed by level.
    pub(super) fn set_level_triggered(&mut self, inputs: u8) {
        self.level_triggered = inputs;
        self.requests = (self.requests & !inputs) | (self.lines & inputs);
    }

    /// The input to be served next, if INTR is asserted. `cascade` are the inputs with a slave behind them,
    /// which in special fully nested mode can interrupt their own service.
    pub(super) fn pending(&self, cascade: u8) -> Option<u8> {
        let requested = self.most_urgent(self.requests & !self.mask)?;
        let mut served = self.in_service;
        if self.special_mask {
            served &= !self.mask;
        }
        if self.special_fully_nested {
            served &= !cascade;
        }
        match self.most_urgent(served) {
            Some(current) if self.rank(requested) >= self.rank(current) => None,
            _ => Some(requested),
        }
    }

    /// The acknowledge cycle for input `irq`.
    pub(super) fn acknowledge(&mut self, irq: u8) {
        let bit = bit(irq);
        if self.level_triggered & bit == 0 {
            self.requests &= !bit;
        }
        if !self.auto_eoi {
            self.in_service |= bit;
        } else if self.rotate_in_auto_eoi {
            self.lowest = irq & 7;
        }
    }

    /// The vector of input `irq`.
    pub(super) fn vector(&self, irq: u8) -> u8 {
        self.vector_base | (irq & 7)
    }

    /// Reads the command port: ISR or IRR.
    pub(super) fn read_command(&self) -> u8 {
        if self.reads_in_service { self.in_service } else { self.requests }
    }

    /// Answers a poll command: the acknowledge cycle, with the input's number in place of a vector.
    pub(super) fn take_poll(&mut self, cascade: u8) -> u8 {
        self.poll = false;
        match self.pending(cascade) {
            Some(irq) => {
                self.acknowledge(irq);
                0x80 | irq
            }
            None => 0,
        }
    }

    /// Writes the command port.
    pub(super) fn write_command(&mut self, value: u8) {
        if value & Icw1::MARK.bits() != 0 {
            self.begin_initialization(Icw1::from_bits_truncate(value));
        } else if value & Ocw3::MARK.bits() != 0 {
            self.ocw3(Ocw3::from_bits_truncate(value));
        } else {
            self.ocw2(Ocw2::from_bits(value), value & 7);
        }
    }

    /// Writes the data port.
    pub(super) fn write_data(&mut self, value: u8) {
        self.initialization = match self.initialization {
            Initialization::Done => {
                self.mask = value;
                Initialization::Done
            }
            Initialization::Icw2 => {
                self.vector_base = value & 0xf8;
                if self.single { self.after_icw3() } else { Initialization::Icw3 }
            }
            // ICW3 says where the slave is, which is wired.
            Initialization::Icw3 => self.after_icw3(),
            Initialization::Icw4 => {
                let icw4 = Icw4::from_bits_truncate(value);
                self.auto_eoi = icw4.contains(Icw4::AUTO_EOI);
                self.special_fully_nested = icw4.contains(Icw4::SPECIAL_FULLY_NESTED);
                Initialization::Done
            }
        };
    }

    fn after_icw3(&self) -> Initialization {
        if self.needs_icw4 { Initialization::Icw4 } else { Initialization::Done }
    }

    /// ICW1 clears mask, service, edges, priorities and modes; the vectors stay until ICW2.
    fn begin_initialization(&mut self, icw1: Icw1) {
        *self = Self {
            lines: self.lines,
            requests: self.lines & self.level_triggered,
            level_triggered: self.level_triggered,
            vector_base: self.vector_base,
            initialization: Initialization::Icw2,
            needs_icw4: icw1.contains(Icw1::IC4),
            single: icw1.contains(Icw1::SINGLE),
            ..Self::new()
        };
    }

    fn ocw3(&mut self, word: Ocw3) {
        if word.contains(Ocw3::POLL) {
            self.poll = true;
        } else if word.contains(Ocw3::READ_REGISTER) {
            self.reads_in_service = word.contains(Ocw3::IN_SERVICE);
        }
        if word.contains(Ocw3::SET_SPECIAL_MASK) {
            self.special_mask = word.contains(Ocw3::SPECIAL_MASK);
        }
    }

    fn ocw2(&mut self, command: Ocw2, irq: u8) {
        match command {
            Ocw2::RotateInAutoEoiClear => self.rotate_in_auto_eoi = false,
            Ocw2::RotateInAutoEoiSet => self.rotate_in_auto_eoi = true,
            Ocw2::NonSpecificEoi | Ocw2::RotateOnNonSpecificEoi => {
                let Some(irq) = self.most_urgent(self.in_service) else { return };
                self.in_service &= !bit(irq);
                if command == Ocw2::RotateOnNonSpecificEoi {
                    self.lowest = irq;
                }
            }
            Ocw2::SpecificEoi => self.in_service &= !bit(irq),
            Ocw2::RotateOnSpecificEoi => {
                self.in_service &= !bit(irq);
                self.lowest = irq;
            }
            Ocw2::SetPriority => self.lowest = irq,
            Ocw2::NoOperation => {}
        }
    }

    /// The input of highest priority in a set.
    fn most_urgent(&self, set: u8) -> Option<u8> {
        (0..8).filter(|&irq| set & bit(irq) != 0).min_by_key(|&irq| self.rank(irq))
    }

    /// An input's place in the order of priority, 0 for the highest: the one after the lowest.
    fn rank(&self, irq: u8) -> u8 {
        irq.wrapping_sub(self.lowest).wrapping_sub(1) & 7
    }
}

fn set_bit(set: &mut u8, bit: u8, value: bool) {
    *set = if value { *set | bit } else { *set & !bit };
}

/// The bit of input `irq`.
pub(super) fn bit(irq: u8) -> u8 {
    1_u8.wrapping_shl((irq & 7).into())
}
