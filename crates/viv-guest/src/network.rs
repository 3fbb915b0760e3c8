//! Network interfaces.
//!
//! The host says what each is to be set up with, and knows it by its address of Ethernet. What goes wrong is reported, and
//! the program runs all the same: most need no network.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use viv_guest_proto::Interface;
use viv_netlink::{LinkChange, Netlink};

use crate::dhcp::{self, Lease};
use crate::{modules, report};

/// The loopback interface is the first that the kernel makes.
const LOOPBACK: u32 = 1;
/// Where the kernel lists interfaces; each has a file `address`.
const CLASS: &str = "/sys/class/net";
/// How long an interface may take to appear.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long addresses by DHCP are waited for before the program runs without.
const LEASE_PATIENCE: Duration = Duration::from_secs(10);
/// The driver of interfaces, from the root file system where the initial RAM disk does not have it.
const DRIVER: &str = "virtio_net";
const RESOLVER: &str = "/etc/resolv.conf";
/// How a list of name servers begins that may be written anew.
const MARK: &str = "# from the host, at every start\n";
/// The most name servers that the C library asks (MAXNS in resolv.conf(5)).
const MAX_NAME_SERVERS: usize = 3;

/// Brings the loopback interface up. The kernel adds its addresses by itself.
pub(crate) fn start_loopback() -> io::Result<()> {
    Netlink::open()?.change_link(LOOPBACK, LinkChange { up: true, ..LinkChange::default() })
}

/// Sets up the interfaces that the host names. Those that get their addresses by DHCP have them when this returns, if
/// somebody gives them within [`LEASE_PATIENCE`].
pub(crate) fn set_up(interfaces: &[Interface]) {
    if interfaces.is_empty() {
        return;
    }
    let named = interfaces.iter().flat_map(|interface| &interface.name_servers).copied().collect();
    let servers = Arc::new(NameServers { named, leased: Mutex::default() });
    servers.write();
    let mut leases = Vec::new();
    for interface in interfaces {
        let set_up = set_up_one(interface).and_then(|index| match interface.dhcp {
            true => start_dhcp(interface, index, &servers).map(Some),
            false => Ok(None),
        });
        match set_up {
            Ok(first) => leases.extend(first.map(|first| (interface, first))),
            Err(error) => {
                report::problem(&format!("setting up network interface {}: {error}", text(interface.mac)));
            }
        }
    }
    let deadline = Instant::now() + LEASE_PATIENCE;
    for (interface, first) in leases {
        if first.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_err() {
            let seconds = LEASE_PATIENCE.as_secs();
            report::problem(&format!(
                "no DHCP server gave network interface {} an address within {seconds} s; it is asked for on",
                text(interface.mac)
            ));
        }
    }
}

/// Has an interface's address given by the network, and whatever else the host does not name.
fn start_dhcp(interface: &Interface, index: u32, servers: &Arc<NameServers>) -> io::Result<Receiver<()>> {
    let servers = Arc::clone(servers);
    let has_gateway = interface.gateways.iter().any(IpAddr::is_ipv4);
    let take = move |lease: &Lease| {
        if let Err(error) = apply(lease, index, has_gateway) {
            report::problem(&format!("setting up the address {} from DHCP: {error}", lease.address));
        }
        let leased: Vec<_> = lease.name_servers.iter().copied().map(IpAddr::V4).collect();
        servers.lease(index, &leased);
    };
    dhcp::start(dhcp::Interface { index, mac: interface.mac }, take)
}

fn apply(lease: &Lease, index: u32, has_gateway: bool) -> io::Result<()> {
    let netlink = Netlink::open()?;
    netlink.lease_address(index, lease.address.into(), lease.prefix, lease.duration)?;
    match lease.gateway {
        Some(gateway) if !has_gateway => netlink.add_default_route(index, gateway.into()),
        _ => Ok(()),
    }
}

/// Who is asked for names: those that the host names, then those that came with leases.
#[derive(Debug)]
struct NameServers {
    named: Vec<IpAddr>,
    /// By interface.
    leased: Mutex<BTreeMap<u32, Vec<IpAddr>>>,
}

impl NameServers {
    /// Those of a lease are these now.
    fn lease(&self, index: u32, servers: &[IpAddr]) {
        let before = self.leased().insert(index, servers.to_vec());
        if before.unwrap_or_default() != servers {
            self.write();
        }
    }

    fn write(&self) {
        let leased = self.leased();
        let servers: Vec<_> =
            self.named.iter().chain(leased.values().flatten()).take(MAX_NAME_SERVERS).collect();
        if let Err(error) = write_resolver(Path::new(RESOLVER), &servers) {
            report::problem(&format!("writing {RESOLVER}: {error}"));
        }
    }

    fn leased(&self) -> MutexGuard<'_, BTreeMap<u32, Vec<IpAddr>>> {
        self.leased.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does what the host says, and gives the interface's index.
fn set_up_one(interface: &Interface) -> io::Result<u32> {
    let name = await_interface(interface.mac)?;
    let netlink = Netlink::open()?;
    let index = netlink.index(&name)?;
    netlink.change_link(index, LinkChange { up: true, ..LinkChange::default() })?;
    for &(ip, prefix) in &interface.addresses {
        netlink.add_address(index, ip, prefix)?;
    }
    for &gateway in &interface.gateways {
        netlink.add_default_route(index, gateway)?;
    }
    Ok(index)
}

/// Waits for the interface with this address, and returns its name.
fn await_interface(mac: [u8; 6]) -> io::Result<String> {
    if let Some(name) = find(mac) {
        return Ok(name);
    }
    // The driver may be there, and its interface be on its way.
    modules::request(&[DRIVER]);
    let deadline = Instant::now() + PATIENCE;
    loop {
        match find(mac) {
            Some(name) => return Ok(name),
            None if Instant::now() > deadline => return Err(io::ErrorKind::NotFound.into()),
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn find(mac: [u8; 6]) -> Option<String> {
    let mac = text(mac);
    fs::read_dir(CLASS).ok()?.flatten().find_map(|entry| {
        let address = fs::read_to_string(entry.path().join("address")).ok()?;
        (address.trim() == mac).then(|| entry.file_name().to_string_lossy().into_owned())
    })
}

/// As the kernel writes it.
fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Writes the list of name servers, unless somebody else has written one.
fn write_resolver(path: &Path, servers: &[&IpAddr]) -> io::Result<()> {
    let there = fs::read_to_string(path).unwrap_or_default();
    if !there.trim().is_empty() && !there.starts_with(MARK) {
        return Ok(());
    }
    let lines: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    fs::write(path, if lines.is_empty() { lines } else { format!("{MARK}{lines}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn somebodys_own_list_of_name_servers_stays() {
        let directory = std::env::temp_dir().join(format!("viv-guest-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("resolv.conf");
        let [one, two] = ["10.0.2.3", "fd00::3"].map(|ip| ip.parse::<IpAddr>().unwrap());
        write_resolver(&path, &[&one, &two]).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            format!("{MARK}nameserver 10.0.2.3\nnameserver fd00::3\n")
        );
        write_resolver(&path, &[]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
        fs::write(&path, "nameserver 9.9.9.9\n").unwrap();
        write_resolver(&path, &[&one]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "nameserver 9.9.9.9\n");
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn addresses_are_written_as_the_kernel_does() {
        assert_eq!(text([2, 0, 0xab, 0, 0, 0x1f]), "02:00:ab:00:00:1f");
    }
}
