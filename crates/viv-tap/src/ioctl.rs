//! The ioctls of Linux's tun driver (`linux/if_tun.h`).
#![allow(unsafe_code, reason = "an ioctl's argument is what its number says, which no type can check")]

use std::io;
use std::os::fd::BorrowedFd;

use rustix::ioctl::{IntegerSetter, Opcode, Setter, Updater, ioctl, opcode};

use crate::Offloads;

const SET_INTERFACE: Opcode = opcode::write::<i32>(b'T', 202);
const SET_OFFLOADS: Opcode = opcode::write::<u32>(b'T', 208);
const SET_HEADER_LENGTH: Opcode = opcode::write::<i32>(b'T', 216);
const SET_QUEUE: Opcode = opcode::write::<i32>(b'T', 217);

/// Flags of an interface.
pub(crate) mod flag {
    /// Ethernet frames.
    pub(crate) const TAP: u16 = 2;
    /// Nothing of the driver's own before them.
    pub(crate) const NO_PI: u16 = 0x1000;
    /// The header of virtio before them.
    pub(crate) const VNET_HDR: u16 = 0x4000;
    /// Several queues.
    pub(crate) const MULTI_QUEUE: u16 = 0x100;
    /// For [`super::set_attached`].
    pub(super) const ATTACH_QUEUE: u16 = 0x200;
    /// For [`super::set_attached`].
    pub(super) const DETACH_QUEUE: u16 = 0x400;
}

/// What may be left undone.
mod offload {
    pub(super) const CHECKSUM: usize = 1;
    pub(super) const TSO4: usize = 2;
    pub(super) const TSO6: usize = 4;
}

/// Bytes of an interface's name with its final zero (IFNAMSIZ).
const NAME: usize = 16;

/// `struct ifreq` with its flags: 40 bytes.
#[repr(C)]
struct Request {
    name: [u8; NAME],
    flags: u16,
    rest: [u8; 22],
}

impl Request {
    /// `None` if the name is too long or has a zero in it.
    fn new(name: &str, flags: u16) -> Option<Self> {
        let mut request = Self { name: [0; NAME], flags, rest: [0; 22] };
        let fits = name.len() < NAME && !name.bytes().any(|byte| byte == 0);
        request.name.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
        fits.then_some(request)
    }
}

/// Makes a descriptor one of the interface called `name`, in which `%d` is any number. Returns its name.
pub(crate) fn set_interface(fd: BorrowedFd<'_>, name: &str, flags: u16) -> io::Result<String> {
    let mut request = Request::new(name, flags).ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: the driver reads and writes a `struct ifreq`, which is what `Request` is.
    unsafe { ioctl(fd, Updater::<SET_INTERFACE, Request>::new(&mut request)) }?;
    let name = request.name.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// Says how long the header before each frame is.
pub(crate) fn set_header_length(fd: BorrowedFd<'_>, length: usize) -> io::Result<()> {
    let length = i32::try_from(length).unwrap_or(i32::MAX);
    // SAFETY: the driver reads an `int`.
    Ok(unsafe { ioctl(fd, Setter::<SET_HEADER_LENGTH, i32>::new(length)) }?)
}

/// Says what may be left undone to frames that are read.
pub(crate) fn set_offloads(fd: BorrowedFd<'_>, offloads: Offloads) -> io::Result<()> {
    let Offloads { checksum, tso4, tso6 } = offloads;
    let bits = [(checksum, offload::CHECKSUM), (tso4, offload::TSO4), (tso6, offload::TSO6)];
    let bits = bits.iter().filter(|(on, _)| *on).fold(0, |all, (_, bit)| all | bit);
    // SAFETY: the driver takes the bits as the argument itself.
    Ok(unsafe { ioctl(fd, IntegerSetter::<SET_OFFLOADS>::new_usize(bits)) }?)
}

/// Lets an interface with several queues use this one, or not.
pub(crate) fn set_attached(fd: BorrowedFd<'_>, attached: bool) -> io::Result<()> {
    let flags = if attached { flag::ATTACH_QUEUE } else { flag::DETACH_QUEUE };
    let request = Request { name: [0; NAME], flags, rest: [0; 22] };
    // SAFETY: the driver reads a `struct ifreq`, which is what `Request` is.
    Ok(unsafe { ioctl(fd, Setter::<SET_QUEUE, Request>::new(request)) }?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_as_linux_has_them() {
        assert_eq!((SET_INTERFACE, SET_OFFLOADS), (0x4004_54ca, 0x4004_54d0));
        assert_eq!((SET_HEADER_LENGTH, SET_QUEUE), (0x4004_54d8, 0x4004_54d9));
        assert_eq!(size_of::<Request>(), 40);
        assert!(
            Request::new("fifteen-letters", 0).is_some() && Request::new("sixteen-letters!", 0).is_none()
        );
    }
}
