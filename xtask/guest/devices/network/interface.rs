//! A guest's network card, set up as all of the peers expect it.

use std::ffi::{c_int, c_ulong};
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;

use crate::system;

/// The guest's address, and the one at which it reaches the host's loopback.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const MASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);

/// The name that the kernel gives the first card.
const CARD: &str = "eth0";

/// `SIOCSIFADDR`, `SIOCSIFNETMASK` and `SIOCSIFFLAGS`
const SET_ADDRESS: c_ulong = 0x8916;
const SET_MASK: c_ulong = 0x891c;
const SET_FLAGS: c_ulong = 0x8914;
/// `IFF_UP`
const UP: u16 = 1;
/// `AF_INET`
const INET: u16 = 2;

// SAFETY: this is how the C library declares it.
unsafe extern "C" {
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
}

/// `struct ifreq`: a name, and here an address with its family, or flags.
#[repr(C)]
struct Request {
    name: [u8; 16],
    value: [u8; 24],
}

/// Waits for the card, gives it its address and brings it up.
pub fn set_up() {
    system::mount_at("sysfs", Path::new("/sys"), "sysfs", 0);
    system::await_file(&Path::new("/sys/class/net").join(CARD));
    let address = |address: Ipv4Addr| {
        let mut value = [0; 24];
        value[..2].copy_from_slice(&INET.to_ne_bytes());
        value[4..8].copy_from_slice(&address.octets());
        value
    };
    let mut up = [0; 24];
    up[..2].copy_from_slice(&UP.to_ne_bytes());
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("the kernel has a network");
    for (request, value) in [(SET_ADDRESS, address(GUEST)), (SET_MASK, address(MASK)), (SET_FLAGS, up)] {
        let mut name = [0; 16];
        name[..CARD.len()].copy_from_slice(CARD.as_bytes());
        let mut argument = Request { name, value };
        // SAFETY: each of these requests reads an `ifreq`.
        let done = unsafe { ioctl(socket.as_raw_fd(), request, &raw mut argument) };
        assert!(done == 0, "setting up {CARD}: {}", io::Error::last_os_error());
    }
}
