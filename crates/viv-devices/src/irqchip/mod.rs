//! The interrupt controllers: two 8259s and an IOAPIC, which share the lines below 16.
//!
//! [`IrqChip`] is where lines end and where processors acknowledge and end interrupts; [`IrqChipDevice`] is
//! its registers, for the bus.
//!
//! Messages and INTR go out under the chip's lock. Only so do they arrive in the order in which the chip's
//! state changed: a stale INTR would lose interrupts or repeat them for ever. It is sound because the targets
//! neither block nor call back ([`MsiTarget`], [`ExtIntTarget`]), and because engines call the chip with no
//! lock of theirs held.

mod ioapic;
mod pic;
mod state;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::trace;
use viv_engine::{ExtIntTarget, MsiTarget};

use crate::bus::PortRange;
use crate::device::{Device, DeviceError, MemoryIo, PortIo, SavedState};
use crate::irq::{InterruptController, IrqLine};
use crate::layout;
use crate::portio::{read_bytes, write_bytes};

use ioapic::Ioapic;
use pic::Pic;
use state::IrqChipState;

const LINES: usize = layout::IOAPIC_PINS as usize;

/// Two 8259s and an IOAPIC behind one lock.
///
/// Lines 0 to 15 reach both, 16 to 23 the IOAPIC only. Line 0 reaches the IOAPIC at pin 2; line 2 is the
/// 8259s' cascade and reaches nothing.
pub struct IrqChip {
    chips: Mutex<Chips>,
    messages: Arc<dyn MsiTarget>,
    extint: Arc<dyn ExtIntTarget>,
}

struct Chips {
    pic: Pic,
    ioapic: Ioapic,
    /// How many sources assert each line.
    sources: [u32; LINES],
    /// INTR as the processor knows it.
    intr: bool,
}

impl IrqChip {
    /// The ports of the 8259s. The IOAPIC's registers are at [`layout::IOAPIC_BASE`].
    pub const PORTS: [PortRange; 3] = [
        PortRange::new(layout::PIC_MASTER, 2),
        PortRange::new(layout::PIC_SLAVE, 2),
        PortRange::new(layout::PIC_ELCR, 2),
    ];

    /// Controllers that send the IOAPIC's messages to `messages` and drive INTR of `extint`.
    #[must_use]
    pub fn new(messages: Arc<dyn MsiTarget>, extint: Arc<dyn ExtIntTarget>) -> Arc<Self> {
        let chips = Chips { pic: Pic::new(), ioapic: Ioapic::new(), sources: [0; LINES], intr: false };
        Arc::new(Self { chips: Mutex::new(chips), messages, extint })
    }

    /// A new source of line `gsi`.
    #[must_use]
    pub fn line(self: &Arc<Self>, gsi: u32) -> IrqLine {
        IrqLine::new(Arc::clone(self) as Arc<dyn InterruptController>, gsi)
    }

    /// The 8259's interrupt acknowledge cycle: the vector, or `None` if INTR is no longer asserted. For
    /// [`Platform::acknowledge_extint`](viv_engine::Platform::acknowledge_extint).
    pub fn acknowledge(&self) -> Option<u8> {
        self.with(|chips| chips.pic.acknowledge())
    }

    /// A local APIC has ended a level-triggered interrupt. For
    /// [`Platform::end_of_interrupt`](viv_engine::Platform::end_of_interrupt).
    pub fn end_of_interrupt(&self, vector: u8) {
        self.lock().ioapic.end_of_interrupt(vector, &*self.messages);
    }

    /// Works on the chips and brings INTR up to date.
    fn with<R>(&self, work: impl FnOnce(&mut Chips) -> R) -> R {
        let mut chips = self.lock();
        let result = work(&mut chips);
        let intr = chips.pic.intr();
        if chips.intr != intr {
            chips.intr = intr;
            self.extint.set_extint(intr);
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, Chips> {
        self.chips.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change_sources(&self, gsi: u32, change: impl FnOnce(u32) -> u32) {
        self.with(|chips| {
            let Some(sources) = usize::try_from(gsi).ok().and_then(|gsi| chips.sources.get_mut(gsi)) else {
                trace!("interrupt line {gsi} leads nowhere");
                return;
            };
            let before = *sources > 0;
            *sources = change(*sources);
            let asserted = *sources > 0;
            if before != asserted {
                chips.set_line(gsi, asserted, &*self.messages);
            }
        });
    }
}

impl Chips {
    fn set_line(&mut self, gsi: u32, asserted: bool, messages: &dyn MsiTarget) {
        if let Ok(irq) = u8::try_from(gsi) {
            self.pic.set_line(irq, asserted);
        }
        let pin = match gsi {
            layout::PIT_IRQ => layout::PIT_IOAPIC_PIN,
            layout::PIT_IOAPIC_PIN => return,
            other => other,
        };
        if let Ok(pin) = usize::try_from(pin) {
            self.ioapic.set_line(pin, asserted, messages);
        }
    }
}

impl InterruptController for IrqChip {
    fn raise(&self, gsi: u32) {
        self.change_sources(gsi, |sources| sources.saturating_add(1));
    }

    fn lower(&self, gsi: u32) {
        self.change_sources(gsi, |sources| sources.saturating_sub(1));
    }
}

/// The registers of an [`IrqChip`].
///
/// What it saves includes the lines as they were, so that a restored device that asserts its line makes no
/// new edge. Who asserts them is not saved: devices assert them anew, before or after this is restored.
pub struct IrqChipDevice(Arc<IrqChip>);

impl IrqChipDevice {
    /// The registers of `chip`.
    #[must_use]
    pub fn new(chip: Arc<IrqChip>) -> Self {
        Self(chip)
    }
}

impl PortIo for IrqChipDevice {
    fn read(&mut self, port: u16, data: &mut [u8]) {
        self.0.with(|chips| read_bytes(port, data, |port| chips.pic.read(port)));
    }

    fn write(&mut self, port: u16, data: &[u8]) {
        self.0.with(|chips| write_bytes(port, data, |port, value| chips.pic.write(port, value)));
    }
}

/// The IOAPIC's registers take 32-bit accesses; of others, reads get the lowest bytes and writes the rest as
/// zeros.
impl MemoryIo for IrqChipDevice {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let value = self.0.lock().ioapic.read(offset).to_le_bytes();
        for (to, from) in data.iter_mut().zip(value.into_iter().chain(std::iter::repeat(0))) {
            *to = from;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let mut value = [0; 4];
        for (to, from) in value.iter_mut().zip(data) {
            *to = *from;
        }
        self.0.lock().ioapic.write(offset, u32::from_le_bytes(value), &*self.0.messages);
    }
}

impl Device for IrqChipDevice {
    fn name(&self) -> &str {
        "irqchip0"
    }

    fn port_io(&mut self) -> Option<&mut dyn PortIo> {
        Some(self)
    }

    fn memory_io(&mut self) -> Option<&mut dyn MemoryIo> {
        Some(self)
    }

    fn reset(&mut self) {
        self.0.with(|chips| {
            chips.pic.reset();
            chips.ioapic.reset();
            chips.ioapic.publish(&*self.0.messages);
        });
    }

    fn save(&self) -> Result<SavedState, DeviceError> {
        let chips = self.0.lock();
        let state = IrqChipState { pic: chips.pic.save(), ioapic: chips.ioapic.save() };
        SavedState::encode(self.name(), IrqChipState::VERSION, &state)
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        let state: IrqChipState = state.decode(IrqChipState::VERSION)?;
        self.0.with(|chips| {
            chips.pic.restore(state.pic);
            chips.ioapic.restore(&state.ioapic);
            chips.ioapic.publish(&*self.0.messages);
            // The processor may have been restored on its own: INTR is said anew even if it has not changed.
            chips.intr = chips.pic.intr();
            self.0.extint.set_extint(chips.intr);
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
