//! The vCPUs' threads.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::time::{ClockId, clock_gettime};
use viv_arch::VcpuState;
use viv_engine::{EngineError, Exit, Vcpu};
use viv_jail::ThreadKind;

use super::core::{Core, Notice};
use crate::error::chain;
use crate::protocol::TripleFault;

/// A vCPU with its thread, which runs it whenever the gate is open.
pub(crate) struct VcpuThread {
    vcpu: SharedVcpu,
    /// Whether it stands still even if the gate is open. It changes while the gate is closed.
    frozen: Arc<AtomicBool>,
    /// Whether the guest has no such processor, at present. It changes while the gate is closed.
    absent: Arc<AtomicBool>,
    /// Processor time of the thread when the engine last returned, in nanoseconds.
    spent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

type SharedVcpu = Arc<Mutex<Box<dyn Vcpu>>>;

/// A vCPU, while the gate is closed, for whoever outlives its thread.
#[derive(Clone)]
pub(crate) struct VcpuHandle {
    vcpu: SharedVcpu,
    frozen: Arc<AtomicBool>,
}

impl VcpuHandle {
    /// The vCPU. While the gate is open this waits for its closing.
    pub(crate) fn vcpu(&self) -> MutexGuard<'_, Box<dyn Vcpu>> {
        lock(&self.vcpu)
    }

    /// Says whether it is to stand still even if the gate is opened.
    pub(crate) fn set_frozen(&self, frozen: bool) {
        self.frozen.store(frozen, Ordering::Relaxed);
    }
}

impl VcpuThread {
    /// Starts a thread for `vcpu`. It ends when the gate of `core` does.
    pub(crate) fn start(index: u32, vcpu: Box<dyn Vcpu>, core: Arc<Core>) -> io::Result<Self> {
        let vcpu = Arc::new(Mutex::new(vcpu));
        let spent = Arc::new(AtomicU64::new(0));
        let frozen = Arc::new(AtomicBool::new(false));
        let absent = Arc::new(AtomicBool::new(false));
        let thread = viv_jail::spawn(ThreadKind::Vcpu, format!("vcpu{index}"), {
            let (vcpu, spent) = (Arc::clone(&vcpu), Arc::clone(&spent));
            let stays_out = [Arc::clone(&frozen), Arc::clone(&absent)];
            move || run(index, &vcpu, &stays_out, &spent, &core)
        })?;
        Ok(Self { vcpu, frozen, absent, spent, thread: Some(thread) })
    }

    /// The host's processor time that the guest has cost on this thread, in nanoseconds, while the gate is
    /// closed.
    pub(crate) fn spent(&self) -> u64 {
        self.spent.load(Ordering::Relaxed)
    }

    /// Says whether the guest has no such processor; it then stands still even if the gate is open.
    pub(crate) fn set_absent(&self, absent: bool) {
        self.absent.store(absent, Ordering::Relaxed);
    }

    /// Whether the guest has no such processor.
    pub(crate) fn is_absent(&self) -> bool {
        self.absent.load(Ordering::Relaxed)
    }

    /// The vCPU, for whoever outlives the thread.
    pub(crate) fn handle(&self) -> VcpuHandle {
        VcpuHandle { vcpu: Arc::clone(&self.vcpu), frozen: Arc::clone(&self.frozen) }
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

/// The calling thread's processor time in nanoseconds.
fn thread_time() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

fn run(index: u32, vcpu: &SharedVcpu, stays_out: &[Arc<AtomicBool>], spent: &AtomicU64, core: &Core) {
    let is_barred = || stays_out.iter().any(|out| out.load(Ordering::Relaxed));
    while let Some(_inside) = core.gate.enter_unless(is_barred) {
        let mut vcpu = lock(vcpu);
        let exit = vcpu.run();
        spent.store(thread_time(), Ordering::Relaxed);
        let notice = match exit {
            Ok(Exit::Kicked) => continue,
            Ok(Exit::Debug(stop)) => Ok(Notice::Debug { vcpu: index, stop }),
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
