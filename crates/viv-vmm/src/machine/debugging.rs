//! What a debugger needs of the machine.

use viv_engine::GuestMemory;

use super::{Machine, VcpuHandle, VcpuThread};
use crate::protocol::MachineState;

impl Machine {
    /// Makes everything stand still for a debugger, guest time included, whatever else happens. A machine that was to run
    /// stays so. The notice that was taken holds the gate no longer.
    pub(crate) fn hold(&mut self) {
        self.core.gate.close(|| self.core.kick_all());
        self.clock.stop();
        self.held = true;
        self.core.release();
    }

    /// Undoes [`Machine::hold`].
    pub(crate) fn release(&mut self) {
        self.held = false;
        if self.state == MachineState::Running {
            self.run();
        }
    }

    /// Goes on after a notice of the debugger's that nobody waits for.
    pub(crate) fn release_notice(&self) {
        self.core.release();
    }

    /// Its vCPUs, in order.
    pub(crate) fn vcpus(&self) -> Vec<VcpuHandle> {
        self.vcpus.iter().map(VcpuThread::handle).collect()
    }

    /// What its processors read and write.
    pub(crate) fn memory(&self) -> &GuestMemory {
        &self.reached.0
    }

    /// What they can only read, if there is anything.
    pub(crate) fn rom(&self) -> Option<&GuestMemory> {
        self.reached.1.as_ref()
    }
}
