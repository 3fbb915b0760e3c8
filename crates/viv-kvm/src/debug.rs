//! What a debugger outside the guest has set, by KVM_SET_GUEST_DEBUG.
//!
//! While it has anything set, the processor's debug registers are its own and every debug exception is its: the guest's
//! breakpoints do not hold, and its single steps stop for the debugger.

use kvm_bindings::{
    KVM_GUESTDBG_BLOCKIRQ, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP,
    KVM_MP_STATE_HALTED, kvm_debug_exit_arch, kvm_guest_debug,
};
use kvm_ioctls::VcpuFd;
use viv_engine::debug::{BREAKPOINTS, DebugControl, DebugStop};
use viv_engine::{EngineError, Exit};

use crate::error;

/// Sets what a debugger wants.
pub(crate) fn set(fd: &VcpuFd, control: &DebugControl) -> Result<(), EngineError> {
    let failed = error::host("tell KVM what the debugger wants");
    let mut debug = kvm_guest_debug::default();
    let [a0, a1, a2, a3] = control.addresses();
    debug.arch.debugreg = [a0, a1, a2, a3, 0, 0, 0, control.dr7()];
    if control.breakpoints.iter().any(Option::is_some) {
        debug.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
    }
    if !control.single_step {
        return fd.set_guest_debug(&debug).map_err(failed);
    }
    debug.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
    // One that is halted waits for an interrupt, which is then its step.
    let is_halted = fd.get_mp_state().is_ok_and(|state| state.mp_state == KVM_MP_STATE_HALTED);
    let blocking = kvm_guest_debug { control: debug.control | KVM_GUESTDBG_BLOCKIRQ, ..debug };
    if !is_halted && fd.set_guest_debug(&blocking).is_ok() {
        return Ok(());
    }
    // Before Linux 5.15 interrupts cannot be kept waiting.
    fd.set_guest_debug(&debug).map_err(failed)
}

/// Why KVM_RUN has returned with KVM_EXIT_DEBUG.
pub(crate) fn exit(exit: kvm_debug_exit_arch) -> Exit {
    let hit = (0..BREAKPOINTS).find(|n| exit.dr6 >> n & 1 != 0);
    Exit::Debug(hit.map_or(DebugStop::Step, DebugStop::Breakpoint))
}
