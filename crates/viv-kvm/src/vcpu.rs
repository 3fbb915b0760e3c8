//! A vCPU: the loop around KVM_RUN.

use std::sync::Arc;

use kvm_bindings::KVM_EXIT_DIRTY_RING_FULL;
use kvm_ioctls::{VcpuExit, VcpuFd};
use viv_arch::VcpuState;
use viv_arch::state::RunState;
use viv_engine::{DebugControl, DebugStop, EngineError, Exit, Kick, Platform, Vcpu};

use crate::finish::Finisher;
use crate::kick::Kicker;
use crate::run_page::RunPage;
use crate::vm::KvmVm;
use crate::{cpuid, debug, error, msr, state};

/// A vCPU on KVM.
pub(crate) struct KvmVcpu {
    fd: VcpuFd,
    index: u32,
    vm: Arc<KvmVm>,
    platform: Arc<dyn Platform>,
    kicker: Arc<Kicker>,
    /// Whether what the shared page says of interrupts is of the present state, at an instruction boundary.
    page_is_current: bool,
    finisher: Finisher,
    /// Whether a debugger wants to stop after each instruction.
    is_stepping: bool,
}

/// What is to be done after KVM_RUN.
enum Next {
    Run,
    /// The record of written pages is full.
    Collect,
    /// An instruction that KVM does not do, for the reason given.
    Finish(u32),
    Exit(Exit),
}

impl KvmVcpu {
    /// vCPU `index` after power-on.
    pub(crate) fn new(index: u32, vm: Arc<KvmVm>, platform: Arc<dyn Platform>) -> Result<Self, EngineError> {
        let fd = vm.fd.create_vcpu(index.into()).map_err(error::host("make a vCPU with KVM"))?;
        let entries = cpuid::entries(vm.cpuid(), index)
            .ok_or_else(|| error::invalid("tell KVM what CPUID answers", "there are too many rows"))?;
        fd.set_cpuid2(&entries).map_err(error::host("tell KVM what CPUID answers"))?;
        let kicker = Arc::new(Kicker::new(RunPage::new(&fd)?));
        let finisher = Finisher::new(index, &vm, &platform)?;
        let mut vcpu =
            Self { fd, index, vm, platform, kicker, page_is_current: false, finisher, is_stepping: false };
        let run_state = if index == 0 { RunState::Running } else { RunState::WaitForSipi };
        state::load(&vcpu.vm, &vcpu.fd, index, &VcpuState { run_state, ..VcpuState::reset() })?;
        vcpu.page_is_current = false;
        Ok(vcpu)
    }

    pub(crate) const fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    /// What other threads hold of it.
    pub(crate) fn handle(&self) -> Arc<Kicker> {
        Arc::clone(&self.kicker)
    }

    fn run_loop(&mut self) -> Result<Exit, EngineError> {
        loop {
            self.offer_extint()?;
            let next = match self.fd.run() {
                Ok(exit) => {
                    // An access is completed when KVM_RUN is next called, and only then is the page right.
                    self.page_is_current = matches!(exit, VcpuExit::IrqWindowOpen);
                    handle(exit, &*self.platform, self.kicker.page())
                }
                Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                    self.page_is_current = true;
                    // In this order: a kick after it is seen by the next KVM_RUN.
                    self.kicker.clear();
                    if self.kicker.take() {
                        self.tell_ends()?;
                        return Ok(Exit::Kicked);
                    }
                    continue;
                }
                // What is a SIGBUS to a process.
                Err(error) if error.errno() == libc::EFAULT => {
                    let action = "run a vCPU on KVM: memory of a file was gone, or its disk had no room for what the guest wrote";
                    return Err(error::host(action)(error));
                }
                Err(error) => return Err(error::host("run a vCPU on KVM")(error)),
            };
            match next {
                Next::Run => {}
                Next::Collect => self.vm.collect_dirty()?,
                Next::Finish(error) => {
                    if let Some(exit) = self.finish(error)? {
                        return Ok(exit);
                    }
                }
                Next::Exit(exit) => return Ok(exit),
            }
        }
    }

    /// Tells of ends of level-triggered interrupts that KVM would tell of when it next runs the guest: what is saved now
    /// may run elsewhere. An IOAPIC that is told twice takes the line's level for a new interrupt at worst, which is what
    /// it is while the line is asserted.
    fn tell_ends(&self) -> Result<(), EngineError> {
        let vectors = self.vm.routes().level_vectors(self.index);
        if vectors.is_empty() {
            return Ok(());
        }
        let page = state::apic::save(&self.fd)?;
        for vector in vectors.into_iter().filter(|&vector| !state::apic::has(&page, vector)) {
            self.platform.end_of_interrupt(vector);
        }
        Ok(())
    }

    /// Has the software engine do what KVM has given up on with this internal error.
    fn finish(&mut self, error: u32) -> Result<Option<Exit>, EngineError> {
        let state = state::save(&self.vm, &self.fd)?;
        if !Finisher::is_finishable(error) {
            let text = format!("KVM cannot go on (internal error {error}) at RIP {:#x}", state.rip);
            return Ok(Some(Exit::Unsupported(text)));
        }
        let (after, exit) = self.finisher.finish(&self.vm, &self.fd, error, &state)?;
        state::load_changes(&self.fd, &state, &after)?;
        self.page_is_current = false;
        Ok(exit.or(self.is_stepping.then_some(Exit::Debug(DebugStop::Step))))
    }

    /// Gives the guest the 8259's interrupt if it takes one now, or has KVM_RUN return when it does.
    fn offer_extint(&mut self) -> Result<(), EngineError> {
        if self.index != 0 {
            return Ok(());
        }
        let page = self.kicker.page();
        let mut waits = self.vm.extint();
        if waits && !self.page_is_current {
            // The page is written by a KVM_RUN that is over before it begins. It leaves a halted vCPU halted, which would
            // not come out to say that it takes interrupts.
            page.set_immediate_exit(true);
            return Ok(());
        }
        if waits && page.is_ready_for_interrupt() {
            if let Some(vector) = self.platform.acknowledge_extint() {
                state::inject(&self.fd, vector)?;
                // Not two before the guest runs.
                self.page_is_current = false;
            }
            waits = self.vm.extint();
        }
        page.request_interrupt_window(waits);
        Ok(())
    }
}

/// Does what KVM_RUN has returned for.
fn handle(exit: VcpuExit<'_>, platform: &dyn Platform, page: &RunPage) -> Next {
    match exit {
        VcpuExit::IoIn(port, data) => {
            for part in data.chunks_mut(page.io_size().max(1)) {
                platform.port_read(port, part);
            }
        }
        VcpuExit::IoOut(port, data) => {
            for part in data.chunks(page.io_size().max(1)) {
                platform.port_write(port, part);
            }
        }
        VcpuExit::MmioRead(address, data) => platform.memory_read(address, data),
        VcpuExit::MmioWrite(address, data) => platform.memory_write(address, data),
        VcpuExit::IoapicEoi(vector) => platform.end_of_interrupt(vector),
        VcpuExit::X86Rdmsr(exit) => match msr::guest_read(exit.index) {
            Some(value) => *exit.data = value,
            None => *exit.error = 1,
        },
        VcpuExit::X86Wrmsr(exit) => {
            if !msr::guest_write(exit.index, exit.data) {
                *exit.error = 1;
            }
        }
        VcpuExit::IrqWindowOpen | VcpuExit::Intr => {}
        VcpuExit::Unsupported(KVM_EXIT_DIRTY_RING_FULL) => return Next::Collect,
        VcpuExit::Debug(exit) => return Next::Exit(debug::exit(exit)),
        VcpuExit::Shutdown => return Next::Exit(Exit::TripleFault),
        VcpuExit::InternalError => return Next::Finish(page.internal_error()),
        VcpuExit::FailEntry(reason, cpu) => {
            return Next::Exit(Exit::Unsupported(format!(
                "processor {cpu} of the host refuses to run the guest, for reason {reason:#x}"
            )));
        }
        other => return Next::Exit(Exit::Unsupported(format!("KVM returns with {other:?}"))),
    }
    Next::Run
}

impl Vcpu for KvmVcpu {
    fn run(&mut self) -> Result<Exit, EngineError> {
        let kicker = Arc::clone(&self.kicker);
        let _running = kicker.enter();
        self.vm.clock().enter(&self.vm.fd)?;
        let exit = self.run_loop();
        self.vm.clock().leave(&self.vm.fd)?;
        exit
    }

    fn save(&mut self) -> Result<VcpuState, EngineError> {
        state::save(&self.vm, &self.fd)
    }

    fn load(&mut self, state: &VcpuState) -> Result<(), EngineError> {
        self.page_is_current = false;
        self.vm.clock().align(&self.vm.fd)?;
        state::load(&self.vm, &self.fd, self.index, state)
    }

    fn set_debug(&mut self, control: &DebugControl) -> Result<(), EngineError> {
        self.is_stepping = control.single_step;
        debug::set(&self.fd, control)
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        Arc::clone(&self.kicker) as Arc<dyn Kick>
    }
}
