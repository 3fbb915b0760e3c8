//! Instructions one at a time, for tests that compare them with the processor.

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
}
