//! Network interfaces: opened before the VM process starts, which gets descriptors alone.

use std::slice;

use viv_tap::OpenError;
use viv_vmm::config::{Fds, Interface, NetworkBackend, NetworkConfig, UserNetwork};

use crate::cli::{NetArg, NetKind, RunArgs};
use crate::failure::Failure;
use crate::session::Plan;

/// Names of the interfaces that are made for bridges.
const BRIDGE_PORT: &str = "viv%d";

/// Gives the machine the interfaces that are asked for, and one to machines from images of which nothing is said.
pub fn connect(args: &RunArgs, plan: &mut Plan) -> Result<(), Failure> {
    let usual = NetArg::plain(if args.image.is_some() { NetKind::User } else { NetKind::None });
    let asked = if args.net.is_empty() { slice::from_ref(&usual) } else { &args.net };
    check(args, asked)?;
    for (index, arg) in asked.iter().enumerate() {
        let option = format!("--net {}", arg.kind);
        let (name, backend) = match &arg.kind {
            NetKind::None => continue,
            NetKind::User => {
                let user = UserNetwork { publish: args.publish.clone(), host_access: args.host_access };
                ("user".to_owned(), NetworkBackend::User(user))
            }
            NetKind::Tap(name) => open(&option, name, arg.queues, None, &mut plan.fds)?,
            NetKind::VhostUser(socket) => {
                (option.clone(), NetworkBackend::VhostUser { socket: socket.into() })
            }
            NetKind::Bridge(bridge) => open(&option, BRIDGE_PORT, arg.queues, Some(bridge), &mut plan.fds)?,
        };
        let name = args.keep.as_ref().unwrap_or(&name);
        let mac = arg.mac.unwrap_or_else(|| stable_mac(name, index));
        set_up(&option, arg, mac, &backend, plan)?;
        plan.config.networks.push(NetworkConfig { mac, mtu: arg.mtu, backend });
    }
    Ok(())
}

/// Refuses what does not go together.
fn check(args: &RunArgs, asked: &[NetArg]) -> Result<(), Failure> {
    let count = |kind| asked.iter().filter(|arg| arg.kind == kind).count();
    if count(NetKind::None) > 0 && asked.len() > 1 {
        let why = "another --net is given";
        return Err(Failure::new("--net none", why).remedy("give one or the other"));
    }
    if count(NetKind::User) > 1 {
        let why = "it is given twice, and both would have the same addresses";
        return Err(Failure::new("--net user", why).remedy("give it once"));
    }
    let needs_user = [("--publish", !args.publish.is_empty()), ("--host-access", args.host_access)];
    match needs_user.iter().find(|(_, given)| *given && count(NetKind::User) == 0) {
        Some((option, _)) => {
            Err(Failure::new(*option, "the machine has no network of its own").remedy("give --net user"))
        }
        None => Ok(()),
    }
}

/// Opens a tap interface. Returns its name and its queues.
fn open(
    option: &str,
    name: &str,
    queues: usize,
    bridge: Option<&String>,
    fds: &mut Fds,
) -> Result<(String, NetworkBackend), Failure> {
    let opened = viv_tap::open(name, queues, bridge.map(String::as_str));
    let (name, queues) = opened.map_err(|error| refused(option, name, bridge, &error))?;
    let queues = queues.into_iter().map(|queue| fds.add(queue)).collect();
    Ok((name, NetworkBackend::Tap { queues }))
}

fn refused(option: &str, name: &str, bridge: Option<&String>, error: &OpenError) -> Failure {
    let failure = Failure::of(option, error);
    match (error, bridge) {
        (OpenError::NoBridge { .. }, Some(bridge)) => {
            failure.remedy(format!("make it with 'ip link add {bridge} type bridge'"))
        }
        (OpenError::Device(_), _) if !error.is_privilege() => {
            failure.remedy("load the driver with 'modprobe tun', or make /dev/net/tun")
        }
        (OpenError::Device(_), _) => {
            failure.remedy("run this as root, or let root open the driver to all with 'chmod 666 /dev/net/tun'")
        }
        (_, None) if error.is_privilege() => failure.remedy(format!(
            "it takes CAP_NET_ADMIN: run this as root, or let root make the interface once with 'ip tuntap add {name} mode tap vnet_hdr user USER'"
        )),
        (_, Some(_)) if error.is_privilege() => failure.remedy(
            "it takes CAP_NET_ADMIN: run this as root, or let root make a tap interface on the bridge once and give --net tap=NAME",
        ),
        _ => failure,
    }
}

/// Has the guest's agent set up an interface. A machine that has no agent does that by itself.
fn set_up(
    option: &str,
    arg: &NetArg,
    mac: [u8; 6],
    backend: &NetworkBackend,
    plan: &mut Plan,
) -> Result<(), Failure> {
    let asked = Interface {
        mac,
        addresses: arg.addresses.clone(),
        gateways: arg.gateways.clone(),
        name_servers: arg.name_servers.clone(),
    };
    match (&mut plan.config.agent, backend) {
        (Some(agent), NetworkBackend::User(user)) => agent.interfaces.push(user.interface(mac)),
        (Some(agent), NetworkBackend::Tap { .. } | NetworkBackend::VhostUser { .. }) => {
            agent.interfaces.push(asked);
        }
        (None, _) if asked == (Interface { mac, ..Interface::default() }) => {}
        (None, _) => {
            let why = "addresses are set up in guests from images alone";
            return Err(Failure::new(option, why).remedy("leave them out, and set up the system itself"));
        }
    }
    Ok(())
}

/// An address that is the same in every run, and not that of another interface of this host or of its networks: it is
/// made from this host's id, and from what this interface is called.
fn stable_mac(name: &str, index: usize) -> [u8; 6] {
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let text = format!("{}/{name}/{index}", machine.trim());
    // FNV-1a, 64 bits.
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let [_, _, _, b, c, d, e, f] = hash.to_be_bytes();
    // Assigned by whoever runs the network, and a single host's.
    [0x02, b, c, d, e, f]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_stay_the_same_and_differ() {
        assert_eq!(stable_mac("viv0", 0), stable_mac("viv0", 0));
        assert_ne!(stable_mac("viv0", 0), stable_mac("viv0", 1));
        assert_ne!(stable_mac("viv0", 0), stable_mac("viv1", 0));
        assert_eq!(stable_mac("viv0", 0)[0], 2);
    }
}
