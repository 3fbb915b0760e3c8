//! Events in real mode (SDM vol. 3, 20.1.4; vol. 2, INT n).

use viv_arch::{Exception, Rflags, Vector};

use crate::cpu::{Cpu, Exec};

impl Cpu {
    /// One try at delivering an event by the interrupt vector table. There are no error codes. RSP and everything else
    /// change only if it succeeds.
    pub(super) fn deliver_real(&mut self, vector: u8) -> Exec {
        let offset = u64::from(vector) * 4;
        if offset + 3 > u64::from(self.idtr.limit) {
            return self.raise(Exception::new(Vector::GeneralProtection));
        }
        let entry: u32 = self.load_system(self.idtr.base.wrapping_add(offset) & 0xffff_ffff)?;
        let image = self.flags() as u16;
        self.enter_vector(entry, image, Rflags::IF | Rflags::TF | Rflags::AC | Rflags::RF)
    }
}
