//! A gate in interrupt lines.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{InterruptController, IrqLine};

/// Stands between devices and the interrupt controller: while it is closed, what the devices assert does not get
/// through. Opened, it lets through what is asserted then.
pub struct Gate {
    controller: Arc<dyn InterruptController>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    closed: bool,
    /// How many sources assert each line.
    sources: BTreeMap<u32, u32>,
}

impl Gate {
    /// An open gate before `controller`.
    #[must_use]
    pub fn new(controller: Arc<dyn InterruptController>) -> Arc<Self> {
        Arc::new(Self { controller, state: Mutex::default() })
    }

    /// A new source of line `gsi`, behind the gate.
    #[must_use]
    pub fn line(self: &Arc<Self>, gsi: u32) -> IrqLine {
        IrqLine::new(Arc::clone(self) as Arc<dyn InterruptController>, gsi)
    }

    /// Closes it or opens it.
    pub fn set_closed(&self, closed: bool) {
        let mut state = self.lock();
        if state.closed == closed {
            return;
        }
        state.closed = closed;
        for (&gsi, _) in state.sources.iter().filter(|&(_, &sources)| sources > 0) {
            if closed {
                self.controller.lower(gsi);
            } else {
                self.controller.raise(gsi);
            }
        }
    }

    // The lock is held across calls of the controller, so that it sees changes in the order they are made.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InterruptController for Gate {
    fn raise(&self, gsi: u32) {
        let mut state = self.lock();
        let closed = state.closed;
        let sources = state.sources.entry(gsi).or_default();
        *sources = sources.saturating_add(1);
        if *sources == 1 && !closed {
            self.controller.raise(gsi);
        }
    }

    fn lower(&self, gsi: u32) {
        let mut state = self.lock();
        let closed = state.closed;
        let sources = state.sources.entry(gsi).or_default();
        let asserted = *sources > 0;
        *sources = sources.saturating_sub(1);
        if asserted && *sources == 0 && !closed {
            self.controller.lower(gsi);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Lines;

    #[test]
    fn a_closed_gate_lets_nothing_through_until_it_opens() {
        let lines = Arc::new(Lines::default());
        let gate = Gate::new(Arc::clone(&lines) as Arc<dyn InterruptController>);
        let (timer, clock) = (gate.line(0), gate.line(8));
        timer.set(true);
        assert!(lines.is_asserted(0));
        gate.set_closed(true);
        gate.set_closed(true);
        clock.set(true);
        assert!(!lines.is_asserted(0) && !lines.is_asserted(8));
        timer.set(false);
        gate.set_closed(false);
        assert!(!lines.is_asserted(0) && lines.is_asserted(8));
        drop(clock);
        assert!(!lines.is_asserted(8));
        assert_eq!((lines.edges(0), lines.edges(8)), (1, 1));
    }

    #[test]
    fn sources_behind_the_gate_are_ored() {
        let lines = Arc::new(Lines::default());
        let gate = Gate::new(Arc::clone(&lines) as Arc<dyn InterruptController>);
        let (a, b) = (gate.line(0), gate.line(0));
        a.set(true);
        b.set(true);
        a.set(false);
        assert!(lines.is_asserted(0));
        gate.set_closed(true);
        assert!(!lines.is_asserted(0));
    }
}
