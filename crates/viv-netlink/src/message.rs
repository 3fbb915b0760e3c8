//! Requests and their answers, as bytes.

use std::io;

/// Flags of requests (netlink(7)).
const REQUEST: u16 = 1;
const ACK: u16 = 4;
/// What is there already is replaced.
pub(crate) const REPLACE: u16 = 0x100;
/// What is not there is made.
pub(crate) const CREATE: u16 = 0x400;

/// The kind of an answer.
const ERROR: u16 = 2;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Messages about interfaces.
pub(crate) mod interface {
    pub(crate) const NEW: u16 = 16;
    pub(crate) const MTU: u16 = 4;
    pub(crate) const MASTER: u16 = 10;
    const UP: u32 = 1;

    /// `ifinfomsg`: family, hardware type, index, flags, which of them to change.
    pub(crate) fn header(index: u32, up: bool) -> Vec<u8> {
        let flags = if up { UP } else { 0 };
        [[0; 4], index.to_ne_bytes(), flags.to_ne_bytes(), flags.to_ne_bytes()].concat()
    }
}

/// Messages about addresses.
pub(crate) mod address {
    use std::net::IpAddr;
    use std::time::Duration;

    pub(crate) const NEW: u16 = 20;
    pub(crate) const ADDRESS: u16 = 1;
    pub(crate) const LOCAL: u16 = 2;
    pub(crate) const TIMES: u16 = 6;
    /// Others on the network need not be asked whether they have it.
    const NO_DETECTION: u8 = 2;

    /// `ifaddrmsg`: family, bits of the prefix, flags, scope, index.
    pub(crate) fn header(index: u32, ip: IpAddr, prefix: u8) -> Vec<u8> {
        let mut bytes = vec![super::family(ip), prefix, NO_DETECTION, 0];
        bytes.extend(index.to_ne_bytes());
        bytes
    }

    /// `ifa_cacheinfo`: for how long it is preferred and valid, in seconds of which all bits stand for always; when it was made
    /// and changed.
    pub(crate) fn times(time: Duration) -> Vec<u8> {
        let seconds = u32::try_from(time.as_secs()).unwrap_or(u32::MAX).to_ne_bytes();
        [seconds, seconds, [0; 4], [0; 4]].concat()
    }
}

/// Messages about routes.
pub(crate) mod route {
    use std::net::IpAddr;

    pub(crate) const NEW: u16 = 24;
    pub(crate) const DELETE: u16 = 25;
    pub(crate) const DESTINATION: u16 = 1;
    pub(crate) const INTERFACE: u16 = 4;
    pub(crate) const GATEWAY: u16 = 5;
    /// The table that routes are looked for in.
    const MAIN: u8 = 254;
    /// Who made the route: whoever starts the system.
    const BOOT: u8 = 3;
    const UNICAST: u8 = 1;
    /// How far destinations are: anywhere, or on the interface's own link.
    pub(crate) const EVERYWHERE: u8 = 0;
    pub(crate) const ON_LINK: u8 = 253;

    /// `rtmsg`: family, bits of destination and source, type of service, table, origin, scope, type, flags.
    pub(crate) fn header(like: IpAddr, bits: u8, scope: u8) -> Vec<u8> {
        vec![super::family(like), bits, 0, 0, MAIN, BOOT, scope, UNICAST, 0, 0, 0, 0]
    }
}

fn family(ip: std::net::IpAddr) -> u8 {
    if ip.is_ipv4() { AF_INET } else { AF_INET6 }
}

/// A request that is being put together.
pub(crate) struct Message(Vec<u8>);

impl Message {
    /// `nlmsghdr` without its length: the kind, flags; sequence number and port, of which one socket with one question
    /// has no need.
    pub(crate) fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((REQUEST | ACK | flags).to_ne_bytes());
        bytes.extend([0; 8]);
        Self(bytes)
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
    }

    /// `rtattr`: length and kind before the value; each begins at a multiple of four bytes.
    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// The whole request.
    pub(crate) fn finish(self) -> Vec<u8> {
        let mut bytes = self.0;
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_ne_bytes();
        bytes.splice(..4, length);
        bytes
    }
}

/// Reads `nlmsghdr` and the error number of `nlmsgerr` after it, which is 0 for an acknowledgement.
pub(crate) fn acknowledgement(reply: &[u8]) -> io::Result<()> {
    let kind = reply.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let error = reply.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, error) {
        (Some(ERROR), Some(0)) => Ok(()),
        (Some(ERROR), Some(error)) => Err(io::Error::from_raw_os_error(error.saturating_neg())),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_as_long_as_it_says() {
        let mut message = Message::new(interface::NEW, 0);
        message.append(&interface::header(1, true));
        assert_eq!(Message(message.0.clone()).finish()[..4], 32_u32.to_ne_bytes());
        message.attribute(interface::MTU, &[1, 2, 3, 4, 5]);
        let bytes = message.finish();
        assert_eq!((bytes.len(), &bytes[..4]), (44, &44_u32.to_ne_bytes()[..]));
        assert_eq!(bytes[32..34], 9_u16.to_ne_bytes());
    }

    #[test]
    fn times_are_seconds() {
        let times = address::times(std::time::Duration::from_secs(3));
        assert_eq!(
            (times.len(), &times[..4], &times[4..8]),
            (16, &3_u32.to_ne_bytes()[..], &3_u32.to_ne_bytes()[..])
        );
        assert_eq!(address::times(std::time::Duration::MAX)[..4], [0xff; 4]);
    }

    #[test]
    fn replies_are_told_apart() {
        let reply = |kind: u16, error: i32| {
            let mut bytes = vec![0; 36];
            bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            bytes[16..20].copy_from_slice(&error.to_ne_bytes());
            bytes
        };
        assert!(acknowledgement(&reply(ERROR, 0)).is_ok());
        assert_eq!(acknowledgement(&reply(ERROR, -1)).unwrap_err().raw_os_error(), Some(1));
        assert!(acknowledgement(&reply(interface::NEW, 0)).is_err());
        assert!(acknowledgement(&[]).is_err());
    }
}
