//! Instructions that KVM gives up on, finished by the software engine's interpreter on the same state.

use std::collections::BTreeSet;
use std::sync::Arc;

use kvm_bindings::{
    KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_SIMUL_EX,
};
use kvm_ioctls::VcpuFd;
use viv_arch::state::AcceptedEvent;
use viv_arch::{SegmentRegister, VcpuState, Vector, msr};
use viv_engine::{EngineError, Exit, Platform};
use viv_soft::Stepper;
use vm_memory::{Bytes, GuestAddress};

use crate::vm::KvmVm;

/// How often in a row an instruction may leave the state as it was before the guest is given up.
const PATIENCE: u32 = 3;

/// How many kinds of instructions are logged, of which a guest can make up any number.
const MAX_KINDS: usize = 64;

/// What finishes a vCPU's instructions.
pub(crate) struct Finisher {
    stepper: Stepper,
    /// The kinds that were logged.
    seen: BTreeSet<(u32, [u8; 3])>,
    /// How many times in a row nothing changed.
    idle: u32,
}

impl Finisher {
    /// One for vCPU `index`. It takes memory for code and a thread, so it is made with its vCPU: once a machine runs, there
    /// are neither.
    pub(crate) fn new(index: u32, vm: &KvmVm, platform: &Arc<dyn Platform>) -> Result<Self, EngineError> {
        let stepper = Stepper::new(index, vm.parameters(), Arc::clone(platform))?;
        Ok(Self { stepper, seen: BTreeSet::new(), idle: 0 })
    }

    /// Whether `error`, the kind of an internal error of KVM's, is about an instruction or an event's delivery.
    pub(crate) const fn is_finishable(error: u32) -> bool {
        matches!(
            error,
            KVM_INTERNAL_ERROR_EMULATION | KVM_INTERNAL_ERROR_DELIVERY_EV | KVM_INTERNAL_ERROR_SIMUL_EX
        )
    }

    /// Finishes the instruction at which KVM has stopped with `error` in `state`: the state after it, and what ended the
    /// guest, if it was ended.
    pub(crate) fn finish(
        &mut self,
        vm: &KvmVm,
        vcpu: &VcpuFd,
        error: u32,
        before: &VcpuState,
    ) -> Result<(VcpuState, Option<Exit>), EngineError> {
        self.log(error, code(vm, vcpu, before), before.rip);
        let state = startable(before, error);
        let (after, exit) = self.stepper.step(&state)?;
        self.idle = if progressed(&state, &after) { 0 } else { self.idle.saturating_add(1) };
        if exit.is_none() && self.idle > PATIENCE {
            let text = format!("KVM's internal error {error} comes again and again at RIP {:#x}", state.rip);
            return Ok((after, Some(Exit::Unsupported(text))));
        }
        Ok((after, exit))
    }

    /// Says once of each kind of instruction that it was met: kinds differ by error and first bytes.
    fn log(&mut self, error: u32, code: [u8; 3], rip: u64) {
        if self.seen.len() < MAX_KINDS && self.seen.insert((error, code)) {
            tracing::info!(
                error,
                rip = format_args!("{rip:#x}"),
                code = format_args!("{code:02x?}"),
                "KVM does not do an instruction; the software engine does"
            );
        }
    }
}

/// The first bytes of the code at which a vCPU in `state` is; zeroes where there is none.
fn code(vm: &KvmVm, vcpu: &VcpuFd, state: &VcpuState) -> [u8; 3] {
    let mut bytes = [0; 3];
    let linear = state.segments[SegmentRegister::Cs as usize].base.wrapping_add(state.rip);
    if let Ok(found) = vcpu.translate_gva(linear)
        && found.valid != 0
    {
        // Code that is not in RAM is nothing to log.
        let _ = vm.memory().read_slice(&mut bytes, GuestAddress(found.physical_address));
    }
    bytes
}

/// A state of KVM's as one to go on from.
fn startable(state: &VcpuState, error: u32) -> VcpuState {
    let mut state = state.clone();
    // KVM writes the pages of the clock and of stolen time.
    state.msrs.retain(|entry| !matches!(entry.0, msr::KVM_SYSTEM_TIME | msr::KVM_STEAL_TIME));
    // An emulator that fails in kernel mode may have raised #UD on the way out: the instruction is to run instead.
    if error == KVM_INTERNAL_ERROR_EMULATION
        && let Some(AcceptedEvent::Exception(exception)) = state.pending.accepted
        && exception.vector == Vector::InvalidOpcode
    {
        state.pending.accepted = None;
    }
    state
}

/// Whether an instruction did anything that shows in registers.
fn progressed(before: &VcpuState, after: &VcpuState) -> bool {
    let key = |state: &VcpuState| (state.rip, state.gpr, state.rflags, state.run_state, state.pending);
    key(before) != key(after)
}
