//! The guest, as `gdbstub` asks for it. All vCPUs stand still meanwhile.

use std::convert::Infallible;

use gdbstub::common::{Signal, Tid};
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{
    MultiThreadBase, MultiThreadResume, MultiThreadResumeOps, MultiThreadSchedulerLocking,
    MultiThreadSchedulerLockingOps, MultiThreadSingleStep, MultiThreadSingleStepOps,
};
use gdbstub::target::ext::base::single_register_access::{SingleRegisterAccess, SingleRegisterAccessOps};
use gdbstub::target::ext::breakpoints as gdb;
use gdbstub::target::ext::breakpoints::WatchKind;
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd, MonitorCmdOps};
use gdbstub::target::ext::thread_extra_info::{ThreadExtraInfo, ThreadExtraInfoOps};
use gdbstub::target::{Target, TargetError, TargetResult};
use viv_arch::VcpuState;
use viv_arch::state::RunState;
use viv_engine::EngineError;

use super::arch::{RegisterFile, X86, number};
use super::breakpoints::{Breakpoints, Kind, Place};
use super::memory::MemoryView;
use super::monitor;
use super::registers::Register;
use crate::machine::VcpuHandle;

/// What gdb is told where the guest has no such thing: EFAULT.
const NO_SUCH_PLACE: u8 = 14;
/// What it is told if the engine fails: EIO.
const ENGINE_FAILED: u8 = 5;

/// The guest.
pub(super) struct Guest {
    vcpus: Vec<VcpuHandle>,
    pub(super) memory: MemoryView,
    pub(super) breakpoints: Breakpoints,
    /// What the next resumption is to be.
    actions: Actions,
    /// The last resumption asked for, to be done.
    pub(super) resumption: Option<Actions>,
    /// A reset was asked for.
    pub(super) wants_reset: bool,
}

/// What is done with each vCPU that does not simply go on.
#[derive(Debug, Clone, Default)]
pub(super) struct Actions {
    steps: Vec<usize>,
    continues: Vec<usize>,
    /// Whether the others stand still.
    locks_others: bool,
}

impl Actions {
    /// Whether vCPU `index` makes a single step.
    pub(super) fn steps(&self, index: usize) -> bool {
        self.steps.contains(&index)
    }

    /// Whether vCPU `index` does anything.
    pub(super) fn runs(&self, index: usize) -> bool {
        !self.locks_others || self.steps(index) || self.continues.contains(&index)
    }
}

impl Guest {
    pub(super) fn new(vcpus: Vec<VcpuHandle>, memory: MemoryView) -> Self {
        Self {
            vcpus,
            memory,
            breakpoints: Breakpoints::default(),
            actions: Actions::default(),
            resumption: None,
            wants_reset: false,
        }
    }

    /// The vCPUs, in order.
    pub(super) fn vcpus(&self) -> &[VcpuHandle] {
        &self.vcpus
    }

    /// The state of vCPU `index`.
    pub(super) fn state(&self, index: usize) -> Option<VcpuState> {
        self.vcpus.get(index)?.vcpu().save().ok()
    }

    /// Changes the state of vCPU `index`.
    pub(super) fn change(
        &self,
        index: usize,
        change: impl FnOnce(&mut VcpuState),
    ) -> Result<(), EngineError> {
        let Some(handle) = self.vcpus.get(index) else { return Ok(()) };
        let mut vcpu = handle.vcpu();
        let mut state = vcpu.save()?;
        change(&mut state);
        vcpu.load(&state)
    }

    fn state_of(&self, tid: Tid) -> TargetResult<VcpuState, Self> {
        self.state(index(tid)).ok_or(TargetError::Errno(ENGINE_FAILED))
    }

    fn change_of(&self, tid: Tid, change: impl FnOnce(&mut VcpuState)) -> TargetResult<(), Self> {
        self.change(index(tid), change).map_err(|error| {
            tracing::warn!(error = crate::error::chain(&error), "a debugger's registers were refused");
            TargetError::Errno(ENGINE_FAILED)
        })
    }
}

/// vCPU `index` as the debugger's thread.
pub(super) fn thread(index: usize) -> Tid {
    Tid::MIN.saturating_add(index)
}

fn index(tid: Tid) -> usize {
    tid.get() - 1
}

impl Target for Guest {
    type Arch = X86;
    type Error = Infallible;

    fn base_ops(&mut self) -> BaseOps<'_, X86, Infallible> {
        BaseOps::MultiThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<gdb::BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadBase for Guest {
    fn read_registers(&mut self, registers: &mut RegisterFile, tid: Tid) -> TargetResult<(), Self> {
        *registers = RegisterFile::of(&self.state_of(tid)?);
        Ok(())
    }

    fn write_registers(&mut self, registers: &RegisterFile, tid: Tid) -> TargetResult<(), Self> {
        self.change_of(tid, |state| registers.apply(state))
    }

    fn support_single_register_access(&mut self) -> Option<SingleRegisterAccessOps<'_, Tid, Self>> {
        Some(self)
    }

    fn read_addrs(&mut self, address: u64, data: &mut [u8], tid: Tid) -> TargetResult<usize, Self> {
        match self.memory.read(&self.state_of(tid)?, address, data) {
            0 if !data.is_empty() => Err(TargetError::Errno(NO_SUCH_PLACE)),
            count => Ok(count),
        }
    }

    fn write_addrs(&mut self, address: u64, data: &[u8], tid: Tid) -> TargetResult<(), Self> {
        let written = self.memory.write(&self.state_of(tid)?, address, data);
        written.ok_or(TargetError::Errno(NO_SUCH_PLACE))
    }

    fn list_active_threads(&mut self, is_active: &mut dyn FnMut(Tid)) -> Result<(), Infallible> {
        (0..self.vcpus.len()).map(thread).for_each(is_active);
        Ok(())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }

    fn support_thread_extra_info(&mut self) -> Option<ThreadExtraInfoOps<'_, Self>> {
        Some(self)
    }
}

impl SingleRegisterAccess<Tid> for Guest {
    fn read_register(&mut self, tid: Tid, register: Register, data: &mut [u8]) -> TargetResult<usize, Self> {
        let bytes = register.get(&self.state_of(tid)?).to_le_bytes();
        let size = register.size().min(data.len());
        data.iter_mut().zip(bytes).take(size).for_each(|(to, from)| *to = from);
        Ok(size)
    }

    fn write_register(&mut self, tid: Tid, register: Register, data: &[u8]) -> TargetResult<(), Self> {
        self.change_of(tid, |state| register.set(state, number(data)))
    }
}

impl MultiThreadResume for Guest {
    fn resume(&mut self) -> Result<(), Infallible> {
        self.resumption = Some(std::mem::take(&mut self.actions));
        Ok(())
    }

    fn clear_resume_actions(&mut self) -> Result<(), Infallible> {
        self.actions = Actions::default();
        Ok(())
    }

    fn set_resume_action_continue(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), Infallible> {
        self.actions.continues.push(index(tid));
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadSingleStep for Guest {
    fn set_resume_action_step(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), Infallible> {
        self.actions.steps.push(index(tid));
        Ok(())
    }
}

impl MultiThreadSchedulerLocking for Guest {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), Infallible> {
        self.actions.locks_others = true;
        Ok(())
    }
}

impl ThreadExtraInfo for Guest {
    fn thread_extra_info(&self, tid: Tid, room: &mut [u8]) -> Result<usize, Infallible> {
        let text = match self.state(index(tid)) {
            None => "unknown".to_owned(),
            Some(state) => {
                let doing = match state.run_state {
                    RunState::Running => "running",
                    RunState::Halted => "halted",
                    RunState::WaitForSipi => "waits to be started",
                };
                let level = state.segments[viv_arch::SegmentRegister::Ss as usize].dpl();
                format!("vCPU {}, {doing}, privilege level {level}", index(tid))
            }
        };
        let count = text.len().min(room.len());
        room.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
        Ok(count)
    }
}

impl gdb::Breakpoints for Guest {
    fn support_sw_breakpoint(&mut self) -> Option<gdb::SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<gdb::HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<gdb::HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl gdb::SwBreakpoint for Guest {
    fn add_sw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.breakpoints.add(Place { address, length: 1, kind: Kind::Software }))
    }

    fn remove_sw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.breakpoints.remove(Place { address, length: 1, kind: Kind::Software }))
    }
}

impl gdb::HwBreakpoint for Guest {
    fn add_hw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.breakpoints.add(Place { address, length: 1, kind: Kind::Hardware }))
    }

    fn remove_hw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.breakpoints.remove(Place { address, length: 1, kind: Kind::Hardware }))
    }
}

impl gdb::HwWatchpoint for Guest {
    fn add_hw_watchpoint(&mut self, address: u64, length: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        Ok(self.breakpoints.add(Place { address, length, kind: Kind::Watch(kind) }))
    }

    fn remove_hw_watchpoint(
        &mut self,
        address: u64,
        length: u64,
        kind: WatchKind,
    ) -> TargetResult<bool, Self> {
        Ok(self.breakpoints.remove(Place { address, length, kind: Kind::Watch(kind) }))
    }
}

impl MonitorCmd for Guest {
    fn handle_monitor_cmd(&mut self, command: &[u8], mut out: ConsoleOutput<'_>) -> Result<(), Infallible> {
        let said = monitor::command(self, &String::from_utf8_lossy(command));
        out.write_raw(said.as_bytes());
        Ok(())
    }
}
