//! Everything of a vCPU to a [`VcpuState`] and back.

pub(crate) mod apic;
mod events;
mod registers;
mod tsc;
mod xsave;

use kvm_ioctls::VcpuFd;
use viv_arch::state::{AcceptedEvent, RunState};
use viv_arch::{VcpuState, Vector, msr as numbers};
use viv_engine::EngineError;

use crate::vm::KvmVm;
use crate::{error, msr};

pub(crate) use events::inject;

/// The state of vCPU `index`, which stands still.
pub(crate) fn save(vm: &KvmVm, vcpu: &VcpuFd) -> Result<VcpuState, EngineError> {
    let mut state = VcpuState::reset();
    // First, as it makes KVM carry out INIT and start-up IPIs that have come in; and the events before the registers,
    // as asking for them writes what exceptions leave in CR2 and DR6.
    state.run_state = events::run_state(vcpu)?;
    state.pending = events::pending(vcpu)?;
    let base = registers::save(vcpu, &mut state)?;
    if let Some(AcceptedEvent::Exception(exception)) = &mut state.pending.accepted
        && exception.vector == Vector::PageFault
    {
        exception.address = state.cr2;
    }
    state.xsave = xsave::save(vcpu)?;
    state.apic = apic::save(vcpu)?;
    state.msrs = msr::read_all(vcpu, &vm.host().msrs)?;
    state.msrs.push((numbers::IA32_APIC_BASE, base));
    state.msrs.retain(|&entry| entry.0 != numbers::IA32_TSC_DEADLINE || entry.1 != 0);
    state.msrs.sort_unstable();
    state.tsc = msr::read(vcpu, numbers::IA32_TSC)
        .ok_or_else(|| error::invalid("read a vCPU's TSC", "KVM does not have it"))?;
    Ok(state)
}

/// Gives a vCPU what an instruction has made of `before`. TSC and local APIC are left alone: they have moved on.
pub(crate) fn load_changes(vcpu: &VcpuFd, before: &VcpuState, after: &VcpuState) -> Result<(), EngineError> {
    let base = find_msr(before, numbers::IA32_APIC_BASE)
        .ok_or_else(|| EngineError::BadState("it has no IA32_APIC_BASE".to_owned()))?;
    load_registers(vcpu, after, base)?;
    for &(number, value) in &before.msrs {
        if let Some(new) = find_msr(after, number).filter(|&new| new != value)
            && number != numbers::IA32_TSC_DEADLINE
        {
            msr::write(vcpu, number, new)?;
        }
    }
    Ok(())
}

fn load_registers(vcpu: &VcpuFd, state: &VcpuState, base: u64) -> Result<(), EngineError> {
    // An event that was accepted ends a halt.
    let run_state = if state.pending.accepted.is_some() { RunState::Running } else { state.run_state };
    events::set_run_state(vcpu, run_state)?;
    registers::load(vcpu, state, base)?;
    xsave::load(vcpu, &state.xsave)?;
    events::set_pending(vcpu, state)
}

fn find_msr(state: &VcpuState, number: u32) -> Option<u64> {
    state.msrs.iter().find(|entry| entry.0 == number).map(|entry| entry.1)
}

/// Gives vCPU `index` a whole state.
pub(crate) fn load(vm: &KvmVm, vcpu: &VcpuFd, index: u32, state: &VcpuState) -> Result<(), EngineError> {
    let base = find_msr(state, numbers::IA32_APIC_BASE).unwrap_or_else(|| apic::default_base(index));
    let offset = vm.tsc().restore(state.tsc, find_msr(state, numbers::IA32_TSC_ADJUST).unwrap_or(0)).offset();
    tsc::set_offset(vcpu, offset)?;
    load_registers(vcpu, state, base)?;
    apic::load(vcpu, index, state, base)?;
    load_msrs(vm, vcpu, state)?;
    // Last: the registers are written through a part of KVM that forgets them.
    events::set_pending(vcpu, state)
}

/// Writes the MSRs of a state: those that it does not name are as after power-on.
fn load_msrs(vm: &KvmVm, vcpu: &VcpuFd, state: &VcpuState) -> Result<(), EngineError> {
    for &(number, after_reset) in &vm.host().msrs {
        if !state.msrs.iter().any(|entry| entry.0 == number) {
            msr::write(vcpu, number, after_reset)?;
        }
    }
    for &(number, value) in &state.msrs {
        if number == numbers::IA32_APIC_BASE || msr::write(vcpu, number, value)? {
            continue;
        }
        // What a host does not have is not missed as long as it does nothing.
        if value != 0 && msr::read(vcpu, number) != Some(value) {
            return Err(EngineError::BadState(format!("KVM does not take {value:#x} for MSR {number:#x}")));
        }
    }
    Ok(())
}
