//! Instructions one at a time, for tests that compare them with the processor.

#[cfg(test)]
use super::{Exit, Next};
use super::{Pending, SoftVcpu};
use crate::hostexec::ExecState;

impl SoftVcpu {
    /// Executes the instruction at `state.rip`, which is the registers' place for as long as it runs. A repeated
    /// instruction runs to its end.
    ///
    /// # Errors
    /// What kept it from completing, which is not delivered.
    pub(crate) fn execute_single(&mut self, state: &mut ExecState) -> Result<(), Pending> {
        std::mem::swap(&mut self.cpu.exec, state);
        let result = loop {
            if self.find().and_then(|id| self.execute(id, true)).is_ok() {
                break Ok(());
            }
            match self.cpu.pending.take() {
                Some(Pending::Restart) | None => {}
                Some(other) => break Err(other),
            }
        };
        std::mem::swap(&mut self.cpu.exec, state);
        result
    }

    /// Runs like [`viv_engine::Vcpu::run`], but an instruction at a time, by the interpreter alone. `see` gets the
    /// registers before each.
    #[cfg(test)]
    pub(crate) fn run_watched(&mut self, mut see: impl FnMut(&ExecState)) -> Exit {
        loop {
            if self.cpu.shared.inbox(self.cpu.index).attention() {
                match self.events() {
                    Next::Run => {}
                    Next::Look => continue,
                    Next::Step => {
                        see(&self.cpu.exec);
                        if let Some(exit) = self.step() {
                            return exit;
                        }
                        continue;
                    }
                    Next::Exit(exit) => return exit,
                }
            }
            see(&self.cpu.exec);
            if self.find().and_then(|id| self.execute(id, true)).is_err()
                && let Some(exit) = self.resolve()
            {
                return exit;
            }
        }
    }
}
