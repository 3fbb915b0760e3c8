//! Events on their way to a vCPU, and what it is doing.

use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_SIPI_RECEIVED,
    KVM_MP_STATE_UNINITIALIZED, KVM_VCPUEVENT_VALID_NMI_PENDING, KVM_VCPUEVENT_VALID_SHADOW, kvm_mp_state,
    kvm_vcpu_events,
};
use kvm_ioctls::VcpuFd;
use viv_arch::state::{AcceptedEvent, PendingEvents, RunState};
use viv_arch::{Cr0, Exception, VcpuState, Vector};
use viv_engine::EngineError;

use crate::error;

/// The shadow of STI, in KVM's terms.
const SHADOW_STI: u8 = 2;

/// What the vCPU is doing.
pub(super) fn run_state(vcpu: &VcpuFd) -> Result<RunState, EngineError> {
    let state = vcpu.get_mp_state().map_err(error::host("ask what a vCPU is doing"))?;
    Ok(match state.mp_state {
        KVM_MP_STATE_HALTED => RunState::Halted,
        KVM_MP_STATE_UNINITIALIZED | KVM_MP_STATE_INIT_RECEIVED | KVM_MP_STATE_SIPI_RECEIVED => {
            RunState::WaitForSipi
        }
        _ => RunState::Running,
    })
}

/// Says what the vCPU is to do. One that waits for a start-up IPI does so as after an INIT: it needs no other.
pub(super) fn set_run_state(vcpu: &VcpuFd, state: RunState) -> Result<(), EngineError> {
    let mp_state = match state {
        RunState::Running => KVM_MP_STATE_RUNNABLE,
        RunState::Halted => KVM_MP_STATE_HALTED,
        RunState::WaitForSipi => KVM_MP_STATE_INIT_RECEIVED,
    };
    vcpu.set_mp_state(kvm_mp_state { mp_state }).map_err(error::host("say what a vCPU is to do"))
}

/// Has the vCPU take the external interrupt `vector` before anything else, halted or not. It takes interrupts now, as KVM
/// has said, and its controller has been acknowledged.
///
/// KVM_INTERRUPT would do the same and keep the vector where no state shows it until the guest runs.
pub(crate) fn inject(vcpu: &VcpuFd, vector: u8) -> Result<(), EngineError> {
    let mut events = vcpu.get_vcpu_events().map_err(error::host("read a vCPU's events"))?;
    events.interrupt.injected = 1;
    events.interrupt.nr = vector;
    events.interrupt.soft = 0;
    events.flags &= KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
    vcpu.set_vcpu_events(&events).map_err(error::host("write a vCPU's events"))?;
    set_run_state(vcpu, RunState::Running)
}

/// The events that are on their way.
pub(super) fn pending(vcpu: &VcpuFd) -> Result<PendingEvents, EngineError> {
    let events = vcpu.get_vcpu_events().map_err(error::host("read a vCPU's events"))?;
    Ok(PendingEvents {
        // One whose delivery has begun begins anew.
        nmi: events.nmi.pending != 0 || events.nmi.injected != 0,
        nmi_blocked: events.nmi.masked != 0 && events.nmi.injected == 0,
        interrupt_shadow: events.interrupt.shadow != 0,
        accepted: accepted(&events),
    })
}

fn accepted(events: &kvm_vcpu_events) -> Option<AcceptedEvent> {
    if events.exception.injected != 0 || events.exception.pending != 0 {
        let vector = Vector::from_number(events.exception.nr)?;
        return Some(AcceptedEvent::Exception(Exception::with_code(vector, events.exception.error_code)));
    }
    // INT n whose delivery has begun is executed anew: RIP is still there.
    let is_external = events.interrupt.injected != 0 && events.interrupt.soft == 0;
    is_external.then_some(AcceptedEvent::Interrupt(events.interrupt.nr))
}

/// Says which events of `state` are on their way, and that there are no others.
pub(super) fn set_pending(vcpu: &VcpuFd, state: &VcpuState) -> Result<(), EngineError> {
    let pending = &state.pending;
    let mut events = kvm_vcpu_events {
        flags: KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW,
        ..kvm_vcpu_events::default()
    };
    events.nmi.pending = pending.nmi.into();
    events.nmi.masked = pending.nmi_blocked.into();
    events.interrupt.shadow = if pending.interrupt_shadow { SHADOW_STI } else { 0 };
    // Real mode has no error codes.
    let has_codes = state.cr0.contains(Cr0::PE);
    match pending.accepted {
        Some(AcceptedEvent::Interrupt(vector)) => {
            events.interrupt.injected = 1;
            events.interrupt.nr = vector;
        }
        Some(AcceptedEvent::Exception(exception)) => {
            events.exception.injected = 1;
            events.exception.nr = exception.vector as u8;
            events.exception.has_error_code = (has_codes && exception.vector.has_error_code()).into();
            events.exception.error_code = exception.error_code;
        }
        None => {}
    }
    vcpu.set_vcpu_events(&events).map_err(error::host("write a vCPU's events"))
}
