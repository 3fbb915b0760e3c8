//! The 8259's interrupt into a vCPU.
#![allow(unsafe_code, reason = "an ioctl that kvm-ioctls has not")]

use kvm_bindings::{KVMIO, kvm_interrupt};
use kvm_ioctls::VcpuFd;
use viv_engine::EngineError;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

use crate::error;

ioctl_iow_nr!(KVM_INTERRUPT, KVMIO, 0x86, kvm_interrupt);

/// Has the guest take the external interrupt `vector`, whose controller has been acknowledged.
pub(crate) fn inject(vcpu: &VcpuFd, vector: u8) -> Result<(), EngineError> {
    let interrupt = kvm_interrupt { irq: vector.into() };
    // SAFETY: KVM reads the structure, which lives until the call returns.
    let result = unsafe { ioctl_with_ref(vcpu, KVM_INTERRUPT(), &interrupt) };
    if result < 0 { Err(error::last("give a vCPU the 8259's interrupt")) } else { Ok(()) }
}
