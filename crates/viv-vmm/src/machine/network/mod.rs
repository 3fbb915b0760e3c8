//! Network interfaces and what they lead to on the host.

mod tap;
mod user;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use viv_devices::virtio::{Net, NetBackend, NetConfig};

use super::reactor::Source;
use crate::config::{Fds, NetworkBackend, NetworkConfig};
use crate::error::MachineError;

/// A network interface.
pub(crate) struct NetworkHandle(Arc<Mutex<Net>>);

impl NetworkHandle {
    /// The device, for its function.
    pub(crate) fn device(&self) -> Arc<Mutex<Net>> {
        Arc::clone(&self.0)
    }

    /// Asks the guest to tell the network where it is.
    pub(crate) fn announce(&self) {
        lock(&self.0).announce();
    }
}

/// Makes an interface, with what its back end wants to be told of.
pub(crate) fn connect(
    config: &NetworkConfig,
    fds: &Fds,
) -> Result<(NetworkHandle, Vec<Box<dyn Source>>), MachineError> {
    match &config.backend {
        NetworkBackend::Tap { queues } => tap::connect(config, queues, fds),
        NetworkBackend::User(user) => user::connect(config, user),
    }
}

fn make(config: &NetworkConfig, backends: Vec<Box<dyn NetBackend>>) -> NetworkHandle {
    let net = Net::new(NetConfig { mac: config.mac, mtu: config.mtu, backends });
    NetworkHandle(Arc::new(Mutex::new(net)))
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
