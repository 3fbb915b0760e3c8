//! Interrupt lines.

mod gate;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

pub use gate::Gate;

/// Where interrupt lines end.
///
/// A line can have several sources and is asserted while any of them asserts it (wired-OR). Callers hold a
/// device's lock, so an implementation must not block nor call a device.
pub trait InterruptController: Send + Sync {
    /// One more source asserts line `gsi`.
    fn raise(&self, gsi: u32);

    /// One of the sources that assert line `gsi` lets it go.
    fn lower(&self, gsi: u32);
}

/// One source of one interrupt line. Dropped, it lets the line go.
///
/// Levels are logical: asserted or not. Whether a line is sensed by edge or by level is the interrupt
/// controller's business; a source of an edge-triggered one uses [`IrqLine::pulse`] or asserts it for as long
/// as its condition holds.
pub struct IrqLine {
    controller: Arc<dyn InterruptController>,
    gsi: u32,
    asserted: Mutex<bool>,
}

impl IrqLine {
    /// A new source of line `gsi`, not asserting it.
    #[must_use]
    pub fn new(controller: Arc<dyn InterruptController>, gsi: u32) -> Self {
        Self { controller, gsi, asserted: Mutex::new(false) }
    }

    /// The line it is a source of.
    #[must_use]
    pub fn gsi(&self) -> u32 {
        self.gsi
    }

    /// Asserts the line or lets it go.
    pub fn set(&self, asserted: bool) {
        // The lock is held across the call, so that the controller sees changes in the order they are made.
        let mut current = self.asserted.lock().unwrap_or_else(PoisonError::into_inner);
        if *current == asserted {
            return;
        }
        *current = asserted;
        if asserted {
            self.controller.raise(self.gsi);
        } else {
            self.controller.lower(self.gsi);
        }
    }

    /// Makes an edge: lets the line go if it was asserted, asserts it, and lets it go.
    pub fn pulse(&self) {
        self.set(false);
        self.set(true);
        self.set(false);
    }
}

impl Drop for IrqLine {
    fn drop(&mut self) {
        self.set(false);
    }
}

impl fmt::Debug for IrqLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IrqLine")
            .field("gsi", &self.gsi)
            .field("asserted", &self.asserted)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Lines;

    #[test]
    fn sources_of_a_line_are_ored() {
        let lines = Arc::new(Lines::default());
        let (a, b) = (lines.line(9), lines.line(9));
        a.set(true);
        b.set(true);
        b.set(true);
        a.set(false);
        assert!(lines.is_asserted(9));
        drop(b);
        assert!(!lines.is_asserted(9));
    }

    #[test]
    fn a_pulse_is_an_edge() {
        let lines = Arc::new(Lines::default());
        let line = lines.line(0);
        line.set(true);
        line.pulse();
        line.pulse();
        assert_eq!(lines.edges(0), 3);
        assert!(!lines.is_asserted(0));
    }
}
