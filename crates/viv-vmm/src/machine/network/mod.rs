//! Network interfaces and what they lead to on the host.

mod tap;
mod user;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use viv_devices::virtio::{Limits, Net, NetBackend, NetConfig, Throttles};
use viv_engine::Clock;
use viv_tap::Tap;
use viv_usernet::UserNet;

use super::limits;
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
}

/// Opens what an interface leads to, which has to see the host's files.
pub(crate) fn open(config: &NetworkConfig, fds: &Fds) -> Result<Far, MachineError> {
    Ok(match &config.backend {
        NetworkBackend::Tap { queues } => Far::Tap(tap::open(queues, fds)?),
        NetworkBackend::User(user) => Far::User(Box::new(UserNet::new(user.router(config.mtu))?)),
    })
}

/// Makes an interface, with what its far end wants to be told of.
pub(crate) fn connect(
    config: &NetworkConfig,
    far: Far,
    clock: &Arc<dyn Clock>,
) -> Result<(NetworkHandle, Vec<Box<dyn Source>>), MachineError> {
    let limits = Limits { requests: config.pps, bytes: config.bps };
    // What goes to the guest may have to wait longer than what comes from it, so each has a timer.
    let timers = [limits::timer(limits, clock)?, limits::timer(limits, clock)?];
    let throttles = match &timers {
        [Some(receive), Some(transmit)] => {
            Some(Throttles { receive: receive.throttle(limits), transmit: transmit.throttle(limits) })
        }
        _ => None,
    };
    let make = |backends: Vec<Box<dyn NetBackend>>| {
        let net = Net::new(NetConfig { mac: config.mac, mtu: config.mtu, backends, throttles });
        NetworkHandle(Arc::new(Mutex::new(net)))
    };
    let (network, mut sources) = match far {
        Far::Tap(taps) => tap::connect(make, taps),
        Far::User(router) => user::connect(make, *router)?,
    };
    sources.extend(timers.into_iter().flatten().map(|timer| {
        let device = network.device();
        timer.source(move || lock(&device).resume())
    }));
    Ok((network, sources))
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
