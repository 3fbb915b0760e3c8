//! The two engines, side by side.

use std::sync::{Arc, OnceLock};

use viv_engine::time::ManualClock;
use viv_engine::{Engine, memory};
use viv_kvm::KvmEngine;
use viv_soft::SoftEngine;

use crate::machine::{Machine, RAM_SIZE};

/// This host's KVM. Without one, whoever runs the tests is told what was not tested.
pub fn kvm() -> Option<&'static KvmEngine> {
    static KVM: OnceLock<Option<KvmEngine>> = OnceLock::new();
    KVM.get_or_init(|| match KvmEngine::open() {
        Ok(engine) => Some(engine),
        Err(error) => {
            eprintln!("NOT TESTED: {error}");
            None
        }
    })
    .as_ref()
}

/// A machine on an engine.
pub fn machine(engine: &dyn Engine) -> Machine {
    let memory = memory::allocate(RAM_SIZE).unwrap();
    Machine::on_engine(engine, memory, Arc::new(ManualClock::default()))
}

/// A machine on the software engine.
pub fn soft_machine() -> Machine {
    machine(&SoftEngine::default())
}
