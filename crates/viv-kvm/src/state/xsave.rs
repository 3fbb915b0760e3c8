//! The XSAVE area.
#![allow(unsafe_code, reason = "KVM's call for areas of more than one page is marked so")]

use kvm_bindings::kvm_xsave;
use kvm_ioctls::VcpuFd;
use viv_arch::xsave;
use viv_engine::EngineError;

use crate::error;

/// Reads the states that guests are offered.
pub(super) fn save(vcpu: &VcpuFd) -> Result<Vec<u8>, EngineError> {
    let area = vcpu.get_xsave().map_err(error::host("read a vCPU's XSAVE area"))?;
    let mut bytes: Vec<u8> = area.region.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.truncate(xsave::AREA_SIZE);
    if let Some(header) = bytes.get_mut(xsave::XSTATE_BV..xsave::XSTATE_BV + 8) {
        let mut present = [0; 8];
        present.copy_from_slice(header);
        header.copy_from_slice(&(u64::from_le_bytes(present) & xsave::SUPPORTED).to_le_bytes());
    }
    // Left to software by processors, and used by Linux for its own.
    if let Some(free) = bytes.get_mut(xsave::XMM0 + 16 * 16..xsave::XSTATE_BV) {
        free.fill(0);
    }
    Ok(bytes)
}

/// Writes an area. One without a header, as after power-on, has its legacy region.
pub(super) fn load(vcpu: &VcpuFd, area: &[u8]) -> Result<(), EngineError> {
    let mut bytes = area.to_vec();
    bytes.truncate(xsave::AREA_SIZE);
    if let Some(header) = bytes.get_mut(xsave::XSTATE_BV..xsave::XSTATE_BV + 8)
        && header == [0; 8]
    {
        header.copy_from_slice(&(xsave::X87 | xsave::SSE).to_le_bytes());
    }
    let mut kvm = kvm_xsave::default();
    for (word, bytes) in kvm.region.iter_mut().zip(bytes.chunks_exact(4)) {
        let mut four = [0; 4];
        four.copy_from_slice(bytes);
        *word = u32::from_le_bytes(four);
    }
    // SAFETY: no state beyond the structure's 4096 bytes is ever enabled, which would take a permission that this
    // process does not ask for.
    unsafe { vcpu.set_xsave(&kvm) }
        .map_err(|_| EngineError::BadState("KVM does not take its XSAVE area".to_owned()))
}
