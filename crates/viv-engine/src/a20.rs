//! The processors' end of the A20 gate.

/// Takes the state of A20M#, by which the chipset holds address line 20 low, so that addresses from 1 MiB on wrap as an
/// 8086's do (SDM vol. 3, 20.1.1). Any thread may call it; it does not block.
pub trait A20Target: Send + Sync {
    /// Says whether address line 20 is open, as it is after power-on. If a vCPU's access to a port is what changes it,
    /// that vCPU's next instruction sees the effect, and the others do soon after.
    ///
    /// Does nothing on engines whose processors have no such pin.
    fn set_a20(&self, _open: bool) {}
}
