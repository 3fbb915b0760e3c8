//! The A20 gate: one line, driven by system control port A and by the keyboard controller.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use viv_engine::A20Target;

/// The gate of address line 20. Whichever port wrote last has its way, as in QEMU; each reads what the line is.
///
/// [`ResetPorts`](crate::reset::ResetPorts), whose port A is, saves and resets it.
pub struct A20Gate {
    processors: Arc<dyn A20Target>,
    open: Mutex<bool>,
}

impl A20Gate {
    /// An open gate.
    #[must_use]
    pub fn new(processors: Arc<dyn A20Target>) -> Arc<Self> {
        Arc::new(Self { processors, open: Mutex::new(true) })
    }

    pub(crate) fn is_open(&self) -> bool {
        *self.lock()
    }

    pub(crate) fn set(&self, open: bool) {
        let mut present = self.lock();
        if *present != open {
            *present = open;
            self.processors.set_a20(open);
        }
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
