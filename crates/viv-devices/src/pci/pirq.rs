//! The wires between PCI's interrupt pins and the interrupt controllers (Intel I/O Controller Hub 9, 5.10.6).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::irq::{InterruptController, IrqLine};
use crate::irqchip::IrqChip;
use crate::layout;

/// How many there are: PIRQA# to PIRQH#.
pub const PIRQS: usize = (layout::PIRQ.end - layout::PIRQ.start) as usize;
/// The ISA interrupts that a PIRQ can be routed to.
const ROUTABLE: u16 = 0b1101_1110_1111_1000;

/// PIRQA# to PIRQH#. Each is an input of the IOAPIC, and by the routing registers of the ISA bridge an ISA interrupt
/// as well, for systems that know no IOAPIC.
///
/// As an [`InterruptController`] its lines are the PIRQs, from 0.
pub struct Pirqs {
    chip: Arc<IrqChip>,
    wires: Mutex<Vec<Wire>>,
}

struct Wire {
    sources: u32,
    pin: IrqLine,
    isa: Option<IrqLine>,
}

impl Wire {
    fn drive(&self) {
        let asserted = self.sources > 0;
        self.pin.set(asserted);
        if let Some(line) = &self.isa {
            line.set(asserted);
        }
    }
}

impl Pirqs {
    /// Wires to `chip`, routed to no ISA interrupt.
    #[must_use]
    pub fn new(chip: Arc<IrqChip>) -> Arc<Self> {
        let wires = layout::PIRQ.map(|gsi| Wire { sources: 0, pin: chip.line(gsi), isa: None }).collect();
        Arc::new(Self { chip, wires: Mutex::new(wires) })
    }

    /// A new source of the interrupt of `slot`'s INTA#.
    #[must_use]
    pub fn line(self: &Arc<Self>, slot: u8) -> IrqLine {
        IrqLine::new(Arc::clone(self) as Arc<dyn InterruptController>, layout::pirq(slot).into())
    }

    /// Routes a PIRQ to an ISA interrupt as well, or to none. One that cannot be routed to is none.
    pub fn route(&self, pirq: usize, irq: Option<u8>) {
        let irq = irq.filter(|&irq| irq < 16 && ROUTABLE & (1 << irq) != 0).map(u32::from);
        if let Some(wire) = self.lock().get_mut(pirq)
            && wire.isa.as_ref().map(IrqLine::gsi) != irq
        {
            wire.isa = irq.map(|irq| self.chip.line(irq));
            wire.drive();
        }
    }

    fn change(&self, pirq: u32, change: impl FnOnce(u32) -> u32) {
        let Ok(pirq) = usize::try_from(pirq) else { return };
        if let Some(wire) = self.lock().get_mut(pirq) {
            wire.sources = change(wire.sources);
            wire.drive();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Wire>> {
        self.wires.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InterruptController for Pirqs {
    fn raise(&self, pirq: u32) {
        self.change(pirq, |sources| sources.saturating_add(1));
    }

    fn lower(&self, pirq: u32) {
        self.change(pirq, |sources| sources.saturating_sub(1));
    }
}
