//! One instruction, with what comes before and after it.

use viv_arch::Rflags;
use viv_arch::state::AcceptedEvent;
use viv_engine::Exit;

use super::{Next, SoftVcpu};
use crate::cpu::{Cpu, Fault, Pending, Shadow};

impl SoftVcpu {
    /// Runs one instruction under the debug facilities.
    pub(super) fn step(&mut self) -> Option<Exit> {
        let cpu = &mut *self.cpu;
        if !cpu.flag(Rflags::RF)
            && let Some(stop) = cpu.debug.outside.stop_at(cpu.code_address())
        {
            return Some(Exit::Debug(stop));
        }
        let shadow = std::mem::take(&mut cpu.shadow);
        let resumes = cpu.flag(Rflags::RF) || shadow == Shadow::Everything;
        if !resumes && cpu.debug.has_instruction_breakpoint() {
            let hits = cpu.debug.instruction_hits(cpu.code_address());
            if hits != 0 {
                let exception = cpu.debug_exception(hits);
                cpu.pending = Some(Pending::Exception(exception));
                return self.resolve_step();
            }
        }
        // RF is for this instruction alone. If it faults, its handler gets it back.
        cpu.exec.rflags &= !Rflags::RF.bits();
        cpu.stepping = cpu.flag(Rflags::TF);
        let result = self.find().and_then(|id| self.execute(id, true));
        let cpu = &mut *self.cpu;
        let completed = result.is_ok() || matches!(cpu.pending, Some(Pending::Restart));
        // After MOV SS there is no trap but that of the next instruction.
        if std::mem::take(&mut cpu.stepping) && completed && cpu.shadow != Shadow::Everything {
            cpu.debug.note_step();
        }
        if result.is_err() {
            return self.resolve_step();
        }
        cpu.debug.outside.note_step();
        None
    }

    /// As [`SoftVcpu::resolve`], by which a step of the debugger outside is made.
    fn resolve_step(&mut self) -> Option<Exit> {
        let exit = self.resolve();
        self.cpu.debug.outside.note_step();
        exit
    }

    /// Delivers the event that was accepted, or else runs one instruction, with the trap that it causes.
    pub(crate) fn step_once(&mut self) -> Option<Exit> {
        let next = match self.cpu.accepted.take() {
            Some(event) => self.deliver(|cpu| deliver_accepted(cpu, event)),
            None => match self.step() {
                Some(exit) => Next::Exit(exit),
                None => self.deliver_hits().unwrap_or(Next::Look),
            },
        };
        if let Next::Exit(exit) = next { Some(exit) } else { None }
    }

    /// Delivers the debug exception that is due.
    pub(super) fn deliver_hits(&mut self) -> Option<Next> {
        let cpu = &mut *self.cpu;
        let hits = if cpu.shadow == Shadow::Everything { 0 } else { cpu.debug.take_hits() };
        if hits == 0 {
            return None;
        }
        let exception = cpu.debug_exception(hits);
        Some(self.deliver(|cpu| cpu.deliver_exception(exception)))
    }
}

/// Delivers what another engine had accepted.
pub(super) fn deliver_accepted(cpu: &mut Cpu, event: AcceptedEvent) -> Result<(), Fault> {
    match event {
        AcceptedEvent::Interrupt(vector) => cpu.deliver_interrupt(vector),
        AcceptedEvent::Exception(exception) => cpu.deliver_exception(exception),
    }
}
