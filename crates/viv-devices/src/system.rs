//! What a guest asks of the machine as a whole.

/// A request to the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SystemRequest {
    /// Start anew, as by the reset button.
    Reset,
    /// Switch off.
    PowerOff,
    /// A CPU has been ejected: see which are left.
    CpuEjected,
    /// Switch off, and give the machine's owner this status.
    Exit(u8),
    /// End: the guest's kernel has panicked.
    Panicked,
    /// Do what is to be done when the guest has not reset its watchdog in time.
    WatchdogExpired,
}

/// Takes requests to the machine.
///
/// Devices call it under their lock in the middle of an access. It does not block: it notes the request, and
/// the machine acts on it once the vCPUs stand still.
pub trait SystemControl: Send + Sync {
    /// Notes a request.
    fn request(&self, request: SystemRequest);
}
