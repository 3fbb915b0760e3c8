//! The state as a register page: what [`VcpuState::apic`](viv_arch::VcpuState) holds, and what KVM's
//! `kvm_lapic_state` is. A register of number n is the 4 bytes at 16 n.
//!
//! IA32_APIC_BASE and IA32_TSC_DEADLINE travel as MSRs.

use viv_arch::apic::reg;

use super::base::Mode;
use super::lvt::Source;
use super::registers::{ICR_WRITABLE, SVR_WRITABLE};
use super::{LocalApic, SVR_ENABLE, VectorSet};

/// Bytes of the page.
const SIZE: usize = 1024;
/// Registers in it.
const REGISTERS: u32 = (SIZE / 16) as u32;

/// Why a saved local APIC cannot be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// The page has another size.
    #[error("the local APIC's register page has {0} bytes instead of {SIZE}")]
    Size(usize),
    /// IA32_APIC_BASE has a value that it cannot have.
    #[error("IA32_APIC_BASE cannot be {0:#x}")]
    Base(u64),
}

impl LocalApic {
    /// The register page at `tsc`. A timer that is due by then has its interrupt requested first.
    #[must_use]
    pub fn save(&mut self, tsc: u64) -> Vec<u8> {
        self.timer_tick(tsc);
        let mut page = vec![0; SIZE];
        for (register, slot) in (0..REGISTERS).zip(page.chunks_exact_mut(16)) {
            let value = self.read_register(register, tsc).unwrap_or(0);
            slot[..4].copy_from_slice(&value.to_le_bytes());
        }
        page
    }

    /// Takes over the register page `page` with the value `base` of IA32_APIC_BASE, at `tsc`; an empty page stands
    /// for the registers after power-on. [`LocalApic::set_tsc_deadline`] is to be called after this, which leaves
    /// the deadline disarmed.
    ///
    /// Bits that software could not have set are dropped. The id stays: it belongs to the vCPU.
    ///
    /// # Errors
    /// When the page or the base cannot be; nothing has changed then.
    pub fn load(&mut self, page: &[u8], base: u64, tsc: u64) -> Result<(), StateError> {
        if !matches!(page.len(), 0 | SIZE) {
            return Err(StateError::Size(page.len()));
        }
        let mode = self.checked_mode(base).ok_or(StateError::Base(base))?;
        self.base = base;
        self.init();
        if !page.is_empty() {
            self.load_registers(page, mode, tsc);
        }
        self.publish();
        Ok(())
    }

    fn load_registers(&mut self, page: &[u8], mode: Mode, tsc: u64) {
        let register = |register: u32| {
            let start = register as usize * 16;
            u32::from_le_bytes([page[start], page[start + 1], page[start + 2], page[start + 3]])
        };
        let set = |first: u32| {
            let mut set = VectorSet::EMPTY;
            (0..8).for_each(|index| set.set_register(index, register(first + index)));
            set.0[0] &= !0xffff;
            set
        };
        self.tpr = register(reg::TPR) as u8;
        if mode == Mode::XApic {
            self.ldr = register(reg::LDR) & 0xff00_0000;
            self.dfr = register(reg::DFR) | 0x0fff_ffff;
        }
        self.svr = register(reg::SVR) & SVR_WRITABLE;
        (self.isr, self.tmr, self.irr) = (set(reg::ISR), set(reg::TMR), set(reg::IRR));
        self.esr = register(reg::ESR) & 0xff;
        let destination = match mode {
            Mode::X2Apic => u32::MAX,
            Mode::XApic | Mode::Disabled => 0xff00_0000,
        };
        self.icr = u64::from(register(reg::ICR_HIGH) & destination) << 32
            | u64::from(register(reg::ICR_LOW) & ICR_WRITABLE);
        for source in Source::ALL {
            self.lvt.write(source, register(source.register()), self.svr & SVR_ENABLE != 0);
        }
        self.timer.set_mode(self.lvt.entry(Source::Timer).timer_mode(), tsc);
        self.timer.set_divide(register(reg::TIMER_DIVIDE), tsc);
        let initial = register(reg::TIMER_INITIAL);
        self.timer.resume(initial, register(reg::TIMER_CURRENT).min(initial), tsc);
    }
}
