//! KVM's clock, by which its paravirtual clock shows guest time, in step with the machine's [`Clock`].
//!
//! KVM's runs always, the machine's only while the machine does; and both follow the host's time by ways of their own, so
//! that they part by some microseconds a second. What was lost while nothing ran is taken back when something runs again,
//! and only that: a guest's time never jumps because of the rest.

use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::kvm_clock_data;
use kvm_ioctls::VmFd;
use viv_engine::{Clock, EngineError};

use crate::error;

/// Differences below this, in nanoseconds, are left alone.
const TOLERANCE: u64 = 100_000;

/// The link between the clocks of one machine.
pub(crate) struct KvmClock {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    /// How many vCPUs run.
    running: usize,
    /// What both showed when the last of them stopped.
    stopped: Stopped,
}

#[derive(Debug, Clone, Copy)]
struct Stopped {
    guest: u64,
    kvm: u64,
}

impl KvmClock {
    /// KVM's clock is to show what `clock` does.
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Mutex::new(State { running: 0, stopped: Stopped { guest: 0, kvm: 0 } }) }
    }

    /// A vCPU is about to run.
    pub(crate) fn enter(&self, vm: &VmFd) -> Result<(), EngineError> {
        self.with(|state| {
            if state.running == 0 {
                let Stopped { guest, kvm } = state.stopped;
                let due = kvm.saturating_add(self.clock.now().saturating_sub(guest));
                if read(vm)?.abs_diff(due) > TOLERANCE {
                    write(vm, due)?;
                }
            }
            state.running = state.running.saturating_add(1);
            Ok(())
        })
    }

    /// A vCPU has stopped.
    pub(crate) fn leave(&self, vm: &VmFd) -> Result<(), EngineError> {
        self.with(|state| {
            state.running = state.running.saturating_sub(1);
            if state.running == 0 {
                state.stopped = Stopped { guest: self.clock.now(), kvm: read(vm)? };
            }
            Ok(())
        })
    }

    /// A state was loaded: from now on KVM's shows what the machine's does.
    pub(crate) fn align(&self, vm: &VmFd) -> Result<(), EngineError> {
        self.with(|state| {
            let now = self.clock.now();
            state.stopped = Stopped { guest: now, kvm: now };
            write(vm, now)
        })
    }

    fn with<R>(&self, work: impl FnOnce(&mut State) -> R) -> R {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn read(vm: &VmFd) -> Result<u64, EngineError> {
    Ok(vm.get_clock().map_err(error::host("read KVM's clock"))?.clock)
}

fn write(vm: &VmFd, nanoseconds: u64) -> Result<(), EngineError> {
    let data = kvm_clock_data { clock: nanoseconds, ..kvm_clock_data::default() };
    vm.set_clock(&data).map_err(error::host("set KVM's clock"))
}
