//! The TSC, as an offset from the host's: a value would be late by the time it is written.
#![allow(unsafe_code, reason = "an ioctl that kvm-ioctls has not")]

use kvm_bindings::{KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, kvm_device_attr};
use kvm_ioctls::VcpuFd;
use viv_engine::EngineError;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

use crate::error;

ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);

/// Sets guest TSC less host TSC, modulo 2⁶⁴.
pub(super) fn set_offset(vcpu: &VcpuFd, offset: u64) -> Result<(), EngineError> {
    let attribute = kvm_device_attr {
        flags: 0,
        group: KVM_VCPU_TSC_CTRL,
        attr: KVM_VCPU_TSC_OFFSET.into(),
        addr: (&raw const offset) as u64,
    };
    // SAFETY: the attribute is a u64 that KVM reads from `addr`, which lives until the call returns.
    let result = unsafe { ioctl_with_ref(vcpu, KVM_SET_DEVICE_ATTR(), &attribute) };
    if result < 0 { Err(error::last("set a vCPU's TSC offset")) } else { Ok(()) }
}
