//! Network interfaces and what they lead to on the host.

pub(super) mod tap;
pub(super) mod user;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use viv_devices::virtio::{Net, NetBackend, NetConfig};
use viv_tap::Tap;
use viv_usernet::UserNet;

use super::back_end::BackEndSocket;
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

/// What an interface leads to.
pub(crate) enum Far {
    /// The queues of a tap interface.
    Tap(Vec<Arc<Tap>>),
    /// A router in this process.
    User(Box<UserNet>),
    /// A process that serves it.
    BackEnd(BackEndSocket),
}

/// Opens what an interface leads to, which has to see the host's files.
pub(crate) fn open(config: &NetworkConfig, fds: &Fds) -> Result<Far, MachineError> {
    Ok(match &config.backend {
        NetworkBackend::Tap { queues } => Far::Tap(tap::open(queues, fds)?),
        NetworkBackend::User(user) => Far::User(Box::new(UserNet::new(user.router(config.mtu))?)),
        NetworkBackend::VhostUser { socket } => Far::BackEnd(BackEndSocket::connect(socket)?),
    })
}

fn make(config: &NetworkConfig, backends: Vec<Box<dyn NetBackend>>) -> NetworkHandle {
    let net = Net::new(NetConfig { mac: config.mac, mtu: config.mtu, backends });
    NetworkHandle(Arc::new(Mutex::new(net)))
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
