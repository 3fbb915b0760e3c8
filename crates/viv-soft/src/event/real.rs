//! Events in real-address mode (SDM vol. 3, 20.1.4; vol. 2, INT n).

use crate::cpu::{Cpu, Exec};

impl Cpu {
    /// One try at delivering an event by the interrupt vector table. There are no error codes.
    pub(super) fn deliver_real(&mut self, vector: u8) -> Exec {
        self.unsupported(&format!("event {vector} in real mode"))
    }
}
