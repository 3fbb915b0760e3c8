//! The local APIC against the text of SDM vol. 3, chapter 11.

mod delivery;
mod modes;
mod robustness;
mod routing;
mod state;
mod timer;

use viv_arch::Exception;
use viv_arch::apic::{BASE_ENABLE, BASE_X2APIC, DEFAULT_BASE, reg};

use super::*;

/// 2.5 GHz: a nanosecond is two and a half ticks.
const TSC_KHZ: u32 = 2_500_000;
const X2APIC: u64 = DEFAULT_BASE | BASE_ENABLE | BASE_X2APIC;

const MASKED: u32 = 1 << 16;
const PERIODIC: u32 = 1 << 17;
const TSC_DEADLINE: u32 = 2 << 17;

/// As after power-on.
fn apic_after_reset(id: u32) -> LocalApic {
    LocalApic::new(id, TSC_KHZ, 46, Arc::default())
}

/// Enabled by software, in xAPIC mode.
fn apic(id: u32) -> LocalApic {
    let mut apic = apic_after_reset(id);
    apic.set(reg::SVR, 0x1ff);
    apic
}

/// Enabled by software, in x2APIC mode.
fn x2apic(id: u32) -> LocalApic {
    let mut apic = apic(id);
    apic.set_base(X2APIC).unwrap();
    apic
}

fn gp<T>() -> Result<T, Exception> {
    Err(Exception::gp(0))
}

impl LocalApic {
    fn get(&mut self, register: u32) -> u32 {
        self.get_at(register, 0)
    }

    fn get_at(&mut self, register: u32, tsc: u64) -> u32 {
        let mut data = [0; 4];
        self.mmio_read(u64::from(register) << 4, &mut data, tsc);
        u32::from_le_bytes(data)
    }

    fn set(&mut self, register: u32, value: u32) -> Effect {
        self.set_at(register, value, 0)
    }

    fn set_at(&mut self, register: u32, value: u32, tsc: u64) -> Effect {
        self.mmio_write(u64::from(register) << 4, &value.to_le_bytes(), tsc)
    }

    fn rdmsr(&mut self, register: u32) -> Result<u64, Exception> {
        self.read_msr(0x800 + register, 0)
    }

    fn wrmsr(&mut self, register: u32, value: u64) -> Result<Effect, Exception> {
        self.write_msr(0x800 + register, value, 0)
    }

    /// What has been found wrong since the last call, read as software reads it.
    fn take_errors(&mut self) -> u32 {
        self.set(reg::ESR, 0);
        self.get(reg::ESR)
    }
}
