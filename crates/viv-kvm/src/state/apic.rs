//! The local APIC's register page.

use std::sync::Arc;

use kvm_bindings::kvm_lapic_state;
use kvm_ioctls::VcpuFd;
use viv_arch::VcpuState;
use viv_arch::apic::{BASE_BSP, BASE_ENABLE, DEFAULT_BASE, reg};
use viv_engine::EngineError;
use viv_soft::apic::{ApicAddress, LocalApic};

use crate::error;

/// Bytes of the page.
const SIZE: usize = 1024;
/// Where the task priority is.
const TPR: usize = reg::TPR as usize * 16;

/// IA32_APIC_BASE of vCPU `index` after power-on.
pub(super) fn default_base(index: u32) -> u64 {
    DEFAULT_BASE | BASE_ENABLE | if index == 0 { BASE_BSP } else { 0 }
}

/// Reads the page.
pub(crate) fn save(vcpu: &VcpuFd) -> Result<Vec<u8>, EngineError> {
    let page = vcpu.get_lapic().map_err(error::host("read a vCPU's local APIC"))?;
    Ok(page.regs.iter().map(|&byte| byte as u8).collect())
}

/// Whether `vector` is requested or in service.
pub(crate) fn has(page: &[u8], vector: u8) -> bool {
    let is_set = |first: u32| {
        let at = (first as usize + usize::from(vector) / 32) * 16 + usize::from(vector) % 32 / 8;
        page.get(at).is_some_and(|byte| byte & (1 << (vector % 8)) != 0)
    };
    is_set(reg::IRR) || is_set(reg::ISR)
}

/// Writes the page of a state; an empty one stands for the registers after power-on.
pub(super) fn load(vcpu: &VcpuFd, index: u32, state: &VcpuState, base: u64) -> Result<(), EngineError> {
    let refused = |what: String| EngineError::BadState(what);
    let mut page = if state.apic.is_empty() { after_power_on(index, base)? } else { state.apic.clone() };
    if page.len() != SIZE {
        return Err(refused(format!(
            "the local APIC's register page has {} bytes instead of {SIZE}",
            page.len()
        )));
    }
    if let Some(tpr) = page.get_mut(TPR)
        && u64::from(*tpr >> 4) != state.cr8
    {
        *tpr = (state.cr8 as u8) << 4;
    }
    let mut kvm = kvm_lapic_state::default();
    for (to, from) in kvm.regs.iter_mut().zip(page) {
        *to = from as std::ffi::c_char;
    }
    vcpu.set_lapic(&kvm).map_err(|_| refused("KVM does not take its local APIC".to_owned()))
}

/// What the software engine has after power-on, with the 8259 wired to vCPU 0.
fn after_power_on(index: u32, base: u64) -> Result<Vec<u8>, EngineError> {
    let mut apic = LocalApic::new(index, 1, 46, Arc::new(ApicAddress::default()));
    apic.load(&[], base, 0).map_err(|error| EngineError::BadState(error.to_string()))?;
    if index == 0 {
        apic.set_virtual_wire();
    }
    Ok(apic.save(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_is_found_where_the_sdm_has_it() {
        let mut page = vec![0; SIZE];
        page[0x210 + 2] = 1 << 1;
        page[0x110] = 1;
        assert!(has(&page, 32 + 17) && has(&page, 32) && !has(&page, 33) && !has(&page, 17));
    }
}
