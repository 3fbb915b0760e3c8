//! Single instructions on states that another engine holds: what its hardware or its emulator does not do is done here.

use std::sync::Arc;

use viv_arch::VcpuState;
use viv_engine::{EngineError, Exit, Platform, Vcpu, VmParameters};

use crate::options::{Options, Tier};
use crate::vcpu::SoftVcpu;
use crate::vm::SoftVm;

/// A vCPU that runs for one instruction at a time, each from a state given to it.
///
/// It has no interrupts of its own. What an instruction asks of the local APIC it does to the state's, so that
/// interrupts between processors are left to the engine that has the local APICs.
pub struct Stepper {
    vcpu: SoftVcpu,
}

impl Stepper {
    /// One for vCPU `index` of a machine on another engine, with its memory and everything around it.
    ///
    /// # Errors
    /// When the host gives no memory or thread for it.
    pub fn new(
        index: u32,
        parameters: VmParameters,
        platform: Arc<dyn Platform>,
    ) -> Result<Self, EngineError> {
        let vm = SoftVm::of_one(index, parameters, Options::with_tier(Tier::Interpret))?;
        Ok(Self { vcpu: vm.vcpu(index, platform)? })
    }

    /// Delivers the event that `state` has accepted, or else executes its next instruction, or one iteration or more of
    /// one that repeats. Exceptions are delivered, too. Gives the state after it, with what ended the guest, if it was
    /// ended.
    ///
    /// # Errors
    /// When the state is none.
    pub fn step(&mut self, state: &VcpuState) -> Result<(VcpuState, Option<Exit>), EngineError> {
        // The guest's writes under the other engine are not seen here, so nothing decoded before holds any more.
        self.vcpu.drop_code();
        self.vcpu.load(state)?;
        let exit = self.vcpu.step_once();
        Ok((self.vcpu.save()?, exit))
    }
}
