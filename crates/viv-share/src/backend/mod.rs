//! The back end of a virtio-fs device: the vhost-user protocol on one side, rings in guest memory on the other.
//!
//! The front end, in the VM process, is as hostile as the guest that has taken it over.

mod device;
mod memory;
#[cfg(test)]
mod tests;
mod vring;
mod worker;

use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use vhost::vhost_user::{BackendReqHandler, Error as ProtocolError};

use self::device::Device;
use self::vring::Vring;
use self::worker::Worker;
use crate::server::FileServer;

/// Queues: one for requests that must not wait, and one for the others.
const QUEUES: usize = 2;
/// How many requests of the second are served at a time.
const WORKERS: usize = 4;

/// Threads that serve what a device asks for, and the device's state, before there is a front end.
#[derive(Debug)]
pub(crate) struct Backend {
    device: Device,
}

impl Backend {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the host gives no threads.
    pub(crate) fn start(server: FileServer) -> std::io::Result<Self> {
        let server = Arc::new(server);
        let mut vrings = Vec::with_capacity(QUEUES);
        for queue in 0..QUEUES {
            let vring = Arc::new(Vring::new()?);
            let threads = if queue == 0 { 1 } else { WORKERS };
            for thread in 0..threads {
                let worker = Worker::new(server.clone(), vring.clone());
                let run = move || worker.run();
                viv_jail::spawn(viv_jail::ThreadKind::Share, format!("share{queue}.{thread}"), run)?;
            }
            vrings.push(vring);
        }
        Ok(Self { device: Device::new(vrings) })
    }

    /// Serves the front end at the other end of `socket` until that is closed.
    ///
    /// # Errors
    /// When what comes is not the protocol.
    pub(crate) fn serve(self, socket: UnixStream) -> Result<(), ProtocolError> {
        let mut requests = BackendReqHandler::from_stream(socket, Arc::new(Mutex::new(self.device)));
        loop {
            match requests.handle_request() {
                Ok(()) => {}
                // Closed between two messages, or in one.
                Err(
                    ProtocolError::Disconnected
                    | ProtocolError::SocketBroken(_)
                    | ProtocolError::PartialMessage,
                ) => return Ok(()),
                // What was asked for is refused, and the front end told so.
                Err(ProtocolError::ReqHandlerError(error)) => tracing::debug!(%error, "a request failed"),
                Err(error) => return Err(error),
            }
        }
    }
}
