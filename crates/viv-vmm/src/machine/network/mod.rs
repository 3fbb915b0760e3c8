//! Network interfaces and what they lead to on the host.

pub(super) mod tap;
pub(super) mod user;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{Resource, getrlimit};
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

/// How many descriptors are left to all that is no socket of the guest's.
const OTHER_DESCRIPTORS: u64 = 256;

/// What an interface leads to.
pub(crate) enum Far {
    /// The queues of a tap interface.
    Tap(Vec<Arc<Tap>>),
    /// A router in this process.
    User(Box<UserNet>),
    /// A process that serves it.
    BackEnd(BackEndSocket),
}

/// Opens what interfaces lead to, which has to see the host's files. So many descriptors of the guest's are for something
/// else.
pub(crate) fn open(
    networks: &[NetworkConfig],
    fds: &Fds,
    descriptors: u64,
) -> Result<Vec<Far>, MachineError> {
    let routers =
        networks.iter().filter(|network| matches!(network.backend, NetworkBackend::User(_))).count();
    let others = OTHER_DESCRIPTORS + descriptors;
    let most = getrlimit(Resource::Nofile).maximum.map(|most| most.saturating_sub(others));
    let limits = router_limits(routers, most);
    networks.iter().map(|network| open_one(network, fds, limits)).collect()
}

/// How much each of so many routers may hold: what one would, or so many descriptors if the host permits no more, in
/// equal shares.
fn router_limits(routers: usize, descriptors: Option<u64>) -> viv_usernet::Limits {
    let usual = viv_usernet::Limits::default();
    let routers = routers.max(1);
    let most = descriptors.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
    let sockets = (usual.connections + usual.flows).min(most) / routers;
    let flows = sockets / 5;
    viv_usernet::Limits { connections: sockets - flows, flows, buffered: usual.buffered / routers }
}

fn open_one(config: &NetworkConfig, fds: &Fds, limits: viv_usernet::Limits) -> Result<Far, MachineError> {
    Ok(match &config.backend {
        NetworkBackend::Tap { queues } => Far::Tap(tap::open(queues, fds)?),
        NetworkBackend::User(user) => {
            let config = viv_usernet::Config { limits, ..user.router(config.mtu) };
            Far::User(Box::new(UserNet::new(config)?))
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routers_share_what_there_is() {
        let sum = |limits: viv_usernet::Limits| limits.connections + limits.flows;
        assert_eq!(router_limits(1, None), viv_usernet::Limits::default());
        assert_eq!(router_limits(1, Some(1 << 20)), viv_usernet::Limits::default());
        assert_eq!(2 * sum(router_limits(2, None)), sum(viv_usernet::Limits::default()));
        assert_eq!(sum(router_limits(1, Some(4096))), 4096);
        assert_eq!(sum(router_limits(3, Some(2))), 0);
    }
}
