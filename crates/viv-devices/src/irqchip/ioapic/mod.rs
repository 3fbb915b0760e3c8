//! The IOAPIC: an 82093AA with 24 pins, and the EOI register that version 0x20 promises.
//!
//! Lines are logical (asserted or not), so the polarity bit of an entry is kept but changes nothing.

mod regs;
mod state;

use viv_engine::MsiTarget;

use regs::{Redirection, Register};
pub(super) use state::IoapicState;

const PINS: usize = crate::layout::IOAPIC_PINS as usize;
/// Version 0x20: there is an EOI register. Bits 16 to 23 are the number of the last pin.
const VERSION: u32 = 0x20 | ((PINS as u32 - 1) << 16);

/// The IOAPIC. Its messages go to the target that each call names.
#[derive(Debug)]
pub(super) struct Ioapic {
    id: u8,
    select: u8,
    lines: u32,
    redirections: [Redirection; PINS],
}

impl Ioapic {
    /// After power-on.
    pub(super) fn new() -> Self {
        Self { id: 0, select: 0, lines: 0, redirections: [Redirection::RESET; PINS] }
    }

    /// After power-on, with the lines as they are.
    pub(super) fn reset(&mut self) {
        *self = Self { lines: self.lines, ..Self::new() };
    }

    /// The line at `pin` is asserted or let go.
    pub(super) fn set_line(&mut self, pin: usize, asserted: bool, target: &dyn MsiTarget) {
        let Some(redirection) = self.redirections.get_mut(pin) else { return };
        let bit = line(pin);
        let rises = asserted && self.lines & bit == 0;
        self.lines = if asserted { self.lines | bit } else { self.lines & !bit };
        if redirection.is_level() {
            deliver_level(redirection, asserted, target);
        } else if rises && !redirection.is_masked() {
            // An edge at a masked pin is lost, as on the 82093AA.
            target.send_msi(redirection.message());
        }
    }

    /// A local APIC has ended a level-triggered interrupt with this vector. A line that is still asserted
    /// interrupts again.
    pub(super) fn end_of_interrupt(&mut self, vector: u8, target: &dyn MsiTarget) {
        for (pin, redirection) in self.redirections.iter_mut().enumerate() {
            if redirection.remote_irr() && redirection.vector() == vector {
                redirection.set_remote_irr(false);
                deliver_level(redirection, self.lines & line(pin) != 0, target);
            }
        }
    }

    /// Reads a register: 32 bits at `offset`, of which an access gets the lowest bytes.
    pub(super) fn read(&self, offset: u64) -> u32 {
        match offset {
            regs::SELECT => self.select.into(),
            regs::WINDOW => match Register::from_index(self.select) {
                Register::Id | Register::Arbitration => u32::from(self.id) << 24,
                Register::Version => VERSION,
                Register::Redirection { pin, high } => {
                    self.redirections.get(pin).map_or(0, |redirection| redirection.half(high))
                }
                Register::Reserved => 0,
            },
            _ => 0,
        }
    }

    /// Writes a register.
    pub(super) fn write(&mut self, offset: u64, value: u32, target: &dyn MsiTarget) {
        let [low, .., high] = value.to_le_bytes();
        match offset {
            regs::SELECT => self.select = low,
            regs::WINDOW => match Register::from_index(self.select) {
                Register::Id => self.id = high & 0x0f,
                Register::Redirection { pin, high } => self.write_redirection(pin, high, value, target),
                Register::Version | Register::Arbitration | Register::Reserved => {}
            },
            regs::EOI => self.end_of_interrupt(low, target),
            _ => {}
        }
    }

    fn write_redirection(&mut self, pin: usize, high: bool, value: u32, target: &dyn MsiTarget) {
        let Some(redirection) = self.redirections.get_mut(pin) else { return };
        redirection.set_half(high, value);
        if let Ok(pin) = u8::try_from(pin) {
            target.set_level_route(pin, redirection.level_message());
        }
        if redirection.is_level() {
            deliver_level(redirection, self.lines & line(pin) != 0, target);
        }
    }

    /// Tells `target` what each pin sends: to be called after a reset or a restore.
    pub(super) fn publish(&self, target: &dyn MsiTarget) {
        for (pin, redirection) in (0..).zip(&self.redirections) {
            target.set_level_route(pin, redirection.level_message());
        }
    }

    /// What is saved of it.
    pub(super) fn save(&self) -> IoapicState {
        IoapicState {
            id: self.id,
            select: self.select,
            lines: self.lines,
            redirections: self.redirections.map(|redirection| redirection.0),
        }
    }

    /// Takes over a saved state. Nothing is sent: what was due had been sent before.
    pub(super) fn restore(&mut self, state: &IoapicState) {
        *self = Self {
            id: state.id & 0x0f,
            select: state.select,
            lines: state.lines,
            redirections: state.redirections.map(Redirection::from_bits),
        };
    }
}

/// Sends the message of a level-triggered pin, unless it is masked or waits for the end of the last one.
fn deliver_level(redirection: &mut Redirection, asserted: bool, target: &dyn MsiTarget) {
    if asserted && !redirection.is_masked() && !redirection.remote_irr() {
        redirection.set_remote_irr(true);
        target.send_msi(redirection.message());
    }
}

fn line(pin: usize) -> u32 {
    u32::try_from(pin).ok().and_then(|pin| 1_u32.checked_shl(pin)).unwrap_or(0)
}

#[cfg(test)]
mod tests;
