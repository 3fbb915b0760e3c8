//! What connections lead to on the host.

use crate::virtio::Input;

/// Nobody takes what the guest sends any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

/// The host's end of a connection. Nothing here may block. Dropped, it is closed.
pub trait VsockStream: Send {
    /// The guest has accepted the connection, which the host had asked for. On the host's side it has this port.
    fn accepted(&mut self, host_port: u32);

    /// Takes bytes from the guest, as many as it can, and returns how many. When it has taken fewer than there were,
    /// [`Vsock::process_stream`](super::Vsock::process_stream) is to be called once there is room again.
    ///
    /// # Errors
    /// When nobody will read them.
    fn write(&mut self, data: &[u8]) -> Result<usize, Gone>;

    /// Gives bytes for the guest, as many as `data` can hold, which is never empty. After [`Input::Nothing`],
    /// [`Vsock::process_stream`](super::Vsock::process_stream) is to be called once there are some. After [`Input::End`]
    /// it is not asked again.
    fn read(&mut self, data: &mut [u8]) -> Input;

    /// Whether the other end is closed in both directions, so that nobody takes what the guest sends.
    fn is_gone(&self) -> bool;

    /// The guest sends no more: the other end comes to the end of its input.
    fn end_output(&mut self);

    /// The guest takes no more: the other end cannot send.
    fn end_input(&mut self);
}

/// Where a guest's connections go.
pub trait VsockHost: Send {
    /// The guest wants to be connected to a port of the host's. The answer comes later by
    /// [`Vsock::answer`](super::Vsock::answer); or it is no, and this returns false.
    fn connect(&mut self, connection: u64, port: u32) -> bool;

    /// Nobody waits for the answer any more. It may come all the same.
    fn forget(&mut self, connection: u64);
}
