//! Events in real mode (SDM vol. 3, 20.1.4; vol. 2, INT n).

use viv_arch::{Exception, Gpr, Rflags, SegmentRegister, Vector};

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
        let before = self.reg(Gpr::Rsp);
        let flags = self.flags() as u16;
        let code = self.segments[SegmentRegister::Cs as usize].selector;
        let rip = self.exec.rip as u16;
        for word in [flags, code, rip] {
            self.push(word).inspect_err(|_| self.exec.gpr[Gpr::Rsp as usize] = before)?;
        }
        self.exec.rflags &= !(Rflags::IF | Rflags::TF | Rflags::AC | Rflags::RF).bits();
        self.enter_real_code((entry >> 16) as u16, u64::from(entry & 0xffff));
        self.update_mmu_mode();
        // TF belongs to what was interrupted.
        self.stepping = false;
        Ok(())
    }
}
