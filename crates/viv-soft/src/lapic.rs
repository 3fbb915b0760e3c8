//! The vCPU's side of its local APIC: register accesses, what they cause, and the timer.

use crate::apic::Effect;
use crate::cpu::{Cpu, Exec, Fault};

impl Cpu {
    /// Reads the APIC's register page.
    pub fn apic_read(&mut self, offset: u64, data: &mut [u8]) {
        self.apic.mmio_read(offset, data, self.tsc.now());
    }

    /// Writes the APIC's register page.
    pub fn apic_write(&mut self, offset: u64, data: &[u8]) {
        let effect = self.apic.mmio_write(offset, data, self.tsc.now());
        self.after_apic_write(&effect);
    }

    /// RDMSR in the x2APIC range.
    pub fn apic_read_msr(&mut self, number: u32) -> Result<u64, Fault> {
        match self.apic.read_msr(number, self.tsc.now()) {
            Ok(value) => Ok(value),
            Err(exception) => self.raise(exception),
        }
    }

    /// WRMSR in the x2APIC range.
    pub fn apic_write_msr(&mut self, number: u32, value: u64) -> Exec {
        match self.apic.write_msr(number, value, self.tsc.now()) {
            Ok(effect) => {
                self.after_apic_write(&effect);
                Ok(())
            }
            Err(exception) => self.raise(exception),
        }
    }

    /// WRMSR of IA32_APIC_BASE.
    pub fn apic_write_base(&mut self, value: u64) -> Exec {
        if let Err(exception) = self.apic.set_base(value) {
            return self.raise(exception);
        }
        self.after_apic_write(&Effect::None);
        Ok(())
    }

    /// WRMSR of IA32_TSC_DEADLINE.
    pub fn apic_write_deadline(&mut self, value: u64) -> Exec {
        self.apic.set_tsc_deadline(value, self.tsc.now());
        self.after_apic_write(&Effect::None);
        Ok(())
    }

    fn after_apic_write(&mut self, effect: &Effect) {
        match effect {
            Effect::None => {}
            Effect::Send(message) => self.shared.interconnect.deliver(message),
            Effect::EndOfInterrupt(vector) => self.platform.end_of_interrupt(*vector),
        }
        self.arm_timer();
        self.attend();
    }

    /// Lets the alarm go off when the timer is next due.
    pub fn arm_timer(&mut self) {
        let deadline = self.apic.next_deadline();
        if deadline != self.armed {
            self.armed = deadline;
            let instant = deadline.and_then(|deadline| self.tsc.instant_of(deadline));
            self.shared.alarm.set(self.index as usize, instant);
        }
    }
}
