//! Network interfaces of the running kernel, by rtnetlink (rtnetlink(7), netlink(7)).
//!
//! What is asked for is asked at once, and the kernel's answer is waited for. There is no cache and no thread. Guests
//! configure themselves with it, and the host connects guests' interfaces.
#![forbid(unsafe_code)]

mod message;

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::netdevice::name_to_index;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

use message::{Message, acknowledgement, address, interface, route};

/// A way to ask the kernel.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
}

/// What of an interface is to be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkChange {
    /// It is to be up.
    pub up: bool,
    /// Its longest packet is to have so many bytes.
    pub mtu: Option<u32>,
    /// It is to be a port of the bridge with this index.
    pub master: Option<u32>,
}

impl Netlink {
    /// Opens a socket in the network namespace of this thread.
    ///
    /// # Errors
    /// When the kernel gives none.
    pub fn open() -> io::Result<Self> {
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        Ok(Self { socket })
    }

    /// The index of the interface called `name`.
    ///
    /// # Errors
    /// When there is none.
    pub fn index(&self, name: &str) -> io::Result<u32> {
        Ok(name_to_index(&self.socket, name)?)
    }

    /// Changes an interface.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn change_link(&self, index: u32, change: LinkChange) -> io::Result<()> {
        let mut message = Message::new(interface::NEW, 0);
        message.append(&interface::header(index, change.up));
        if let Some(mtu) = change.mtu {
            message.attribute(interface::MTU, &mtu.to_ne_bytes());
        }
        if let Some(master) = change.master {
            message.attribute(interface::MASTER, &master.to_ne_bytes());
        }
        self.ask(message)
    }

    /// Gives an interface an address on a network whose addresses begin with the same `prefix` bits.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn add_address(&self, index: u32, ip: IpAddr, prefix: u8) -> io::Result<()> {
        self.ask(new_address(index, ip, prefix))
    }

    /// The same for so long, after which the kernel takes it away; again for longer.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn lease_address(&self, index: u32, ip: IpAddr, prefix: u8, time: Duration) -> io::Result<()> {
        let mut message = new_address(index, ip, prefix);
        message.attribute(address::TIMES, &address::times(time));
        self.ask(message)
    }

    /// Sends what is for everybody (255.255.255.255) to those who are reached by an interface.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn add_broadcast_route(&self, index: u32) -> io::Result<()> {
        self.ask(broadcast_route(route::NEW, message::CREATE | message::REPLACE, index))
    }

    /// Undoes that.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn remove_broadcast_route(&self, index: u32) -> io::Result<()> {
        self.ask(broadcast_route(route::DELETE, 0, index))
    }

    /// Sends what has no better way to `gateway`, which is on an interface's network.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn add_default_route(&self, index: u32, gateway: IpAddr) -> io::Result<()> {
        let mut message = Message::new(route::NEW, message::CREATE | message::REPLACE);
        message.append(&route::header(gateway, 0, route::EVERYWHERE));
        message.attribute(route::GATEWAY, &octets(gateway));
        message.attribute(route::INTERFACE, &index.to_ne_bytes());
        self.ask(message)
    }

    fn ask(&self, message: Message) -> io::Result<()> {
        sendto(&self.socket, &message.finish(), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut reply = [0; 256];
        let (count, _) = recv(&self.socket, &mut reply, RecvFlags::empty())?;
        acknowledgement(reply.get(..count).unwrap_or_default())
    }
}

fn new_address(index: u32, ip: IpAddr, prefix: u8) -> Message {
    let mut message = Message::new(address::NEW, message::CREATE | message::REPLACE);
    message.append(&address::header(index, ip, prefix));
    message.attribute(address::LOCAL, &octets(ip));
    message.attribute(address::ADDRESS, &octets(ip));
    message
}

fn broadcast_route(kind: u16, flags: u16, index: u32) -> Message {
    let everybody = IpAddr::V4(Ipv4Addr::BROADCAST);
    let mut message = Message::new(kind, flags);
    message.append(&route::header(everybody, 32, route::ON_LINK));
    message.attribute(route::DESTINATION, &octets(everybody));
    message.attribute(route::INTERFACE, &index.to_ne_bytes());
    message
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}
