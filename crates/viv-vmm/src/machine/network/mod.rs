//! Network interfaces and what they lead to on the host.

pub(super) mod tap;
pub(super) mod user;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use viv_devices::SharedDevice;
use viv_devices::virtio::{Limits, MacAddress, Net, NetBackend, NetConfig, Throttles};
use viv_engine::Clock;
use viv_tap::Tap;
use viv_usernet::UserNet;

use super::back_end::BackEndSocket;
use super::limits::{self, LimitTimer};
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

/// An interface that leads somewhere.
pub(crate) struct Connected {
    pub(crate) network: NetworkHandle,
    /// What its far end and its limits want to be told of.
    pub(crate) sources: Vec<Box<dyn Source>>,
    /// What of its far end is reset and saved with the machine.
    pub(crate) device: Option<SharedDevice>,
}

/// Makes an interface, within its limits.
pub(crate) struct Maker {
    mac: MacAddress,
    mtu: Option<u16>,
    limits: Limits,
    /// What goes to the guest may have to wait longer than what comes from it, so each has a timer.
    timers: [Option<Arc<LimitTimer>>; 2],
}

impl Maker {
    pub(crate) fn new(config: &NetworkConfig, clock: &Arc<dyn Clock>) -> Result<Self, MachineError> {
        let NetworkConfig { mac, mtu, pps, bps, .. } = *config;
        let limits = Limits { requests: pps, bytes: bps };
        let timers = [limits::timer(limits, clock)?, limits::timer(limits, clock)?];
        Ok(Self { mac, mtu, limits, timers })
    }

    fn make(self, backends: Vec<Box<dyn NetBackend>>) -> (NetworkHandle, Vec<Box<dyn Source>>) {
        let Self { mac, mtu, limits, timers } = self;
        let throttles = match &timers {
            [Some(receive), Some(transmit)] => {
                Some(Throttles { receive: receive.throttle(limits), transmit: transmit.throttle(limits) })
            }
            _ => None,
        };
        let net = Net::new(NetConfig { mac, mtu, backends, throttles });
        let network = NetworkHandle(Arc::new(Mutex::new(net)));
        let resume = |timer: Arc<LimitTimer>| {
            let device = network.device();
            timer.source(move || lock(&device).resume())
        };
        let sources = timers.into_iter().flatten().map(resume).collect();
        (network, sources)
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
