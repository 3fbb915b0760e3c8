//! The loopback interface.
//!
//! One rtnetlink request (rtnetlink(7), netlink(7)): `RTM_NEWLINK` for interface 1 with `IFF_UP` set. The
//! kernel adds the addresses by itself when the interface comes up.

use std::io;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

/// `nlmsghdr` and `ifinfomsg`, 16 bytes each.
const REQUEST_LENGTH: u32 = 32;
const RTM_NEWLINK: u16 = 16;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLMSG_ERROR: u16 = 2;
/// The loopback interface is the first that the kernel makes.
const LOOPBACK_INDEX: u32 = 1;
const IFF_UP: u32 = 1;

/// Brings the interface up and waits for the kernel's word that it is.
pub(crate) fn up() -> io::Result<()> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    sendto(&socket, &request(), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut reply = [0; 128];
    let (count, _) = recv(&socket, &mut reply, RecvFlags::empty())?;
    acknowledgement(reply.get(..count).unwrap_or_default())
}

fn request() -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&REQUEST_LENGTH.to_ne_bytes());
    bytes.extend_from_slice(&RTM_NEWLINK.to_ne_bytes());
    bytes.extend_from_slice(&(NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    bytes.extend_from_slice(&[0; 8]); // sequence number, port: there is one question on this socket
    bytes.extend_from_slice(&[0; 4]); // family, padding, hardware type
    bytes.extend_from_slice(&LOOPBACK_INDEX.to_ne_bytes());
    bytes.extend_from_slice(&IFF_UP.to_ne_bytes()); // flags
    bytes.extend_from_slice(&IFF_UP.to_ne_bytes()); // which of them to change
    bytes
}

/// Reads `nlmsghdr` and the error number of `nlmsgerr` after it, which is 0 for an acknowledgement.
fn acknowledgement(reply: &[u8]) -> io::Result<()> {
    let kind = reply.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let error = reply.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, error) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(error)) => Err(io::Error::from_raw_os_error(error.saturating_neg())),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_as_long_as_it_says() {
        assert_eq!(request().len(), REQUEST_LENGTH as usize);
    }

    #[test]
    fn replies_are_told_apart() {
        let reply = |kind: u16, error: i32| {
            let mut bytes = vec![0; 36];
            bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            bytes[16..20].copy_from_slice(&error.to_ne_bytes());
            bytes
        };
        assert!(acknowledgement(&reply(NLMSG_ERROR, 0)).is_ok());
        assert_eq!(acknowledgement(&reply(NLMSG_ERROR, -1)).unwrap_err().raw_os_error(), Some(1));
        assert!(acknowledgement(&reply(RTM_NEWLINK, 0)).is_err());
        assert!(acknowledgement(&[]).is_err());
    }
}
