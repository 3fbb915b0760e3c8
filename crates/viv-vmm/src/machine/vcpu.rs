//! The vCPUs' threads.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use viv_arch::VcpuState;
use viv_engine::{EngineError, Exit, Vcpu};

use super::core::{Core, Notice};
use crate::error::chain;
use crate::protocol::TripleFault;

/// A vCPU with its thread, which runs it whenever the gate is open.
pub(crate) struct VcpuThread {
    vcpu: SharedVcpu,
    thread: Option<JoinHandle<()>>,
}

type SharedVcpu = Arc<Mutex<Box<dyn Vcpu>>>;

impl VcpuThread {
    /// Starts a thread for `vcpu`. It ends when the gate of `core` does.
    pub(crate) fn start(index: u32, vcpu: Box<dyn Vcpu>, core: Arc<Core>) -> io::Result<Self> {
        let vcpu = Arc::new(Mutex::new(vcpu));
        let thread = std::thread::Builder::new().name(format!("vcpu{index}")).spawn({
            let vcpu = Arc::clone(&vcpu);
            move || run(index, &vcpu, &core)
        })?;
        Ok(Self { vcpu, thread: Some(thread) })
    }

    /// The vCPU, while the gate is closed. While it is open this waits for its closing.
    pub(crate) fn vcpu(&self) -> MutexGuard<'_, Box<dyn Vcpu>> {
        lock(&self.vcpu)
    }
}

impl Drop for VcpuThread {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(vcpu: &SharedVcpu) -> MutexGuard<'_, Box<dyn Vcpu>> {
    vcpu.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run(index: u32, vcpu: &SharedVcpu, core: &Core) {
    while let Some(_inside) = core.gate.enter() {
        let mut vcpu = lock(vcpu);
        let notice = match vcpu.run() {
            Ok(Exit::Kicked) => continue,
            Ok(Exit::TripleFault) => triple_fault(index, vcpu.as_mut()),
            Ok(Exit::Unsupported(what)) => Ok(Notice::Failed(format!(
                "the engine cannot run what the guest's processor {index} does: {what}"
            ))),
            Err(error) => Err(error),
        };
        core.notice_and_hold(notice.unwrap_or_else(|error| {
            Notice::Failed(format!("processor {index} of the guest cannot run on: {}", chain(&error)))
        }));
    }
}

fn triple_fault(index: u32, vcpu: &mut dyn Vcpu) -> Result<Notice, EngineError> {
    let VcpuState { rip, gpr, cr0, cr2, cr3, idtr, .. } = vcpu.save()?;
    Ok(Notice::TripleFault(TripleFault {
        vcpu: index,
        rip,
        rsp: gpr[viv_arch::Gpr::Rsp as usize],
        cr0: cr0.bits(),
        cr2,
        cr3,
        idt: idtr.base,
    }))
}
