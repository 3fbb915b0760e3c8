//! What a program of the host says first: to which port of the guest's it wants to be connected.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

/// The longest greeting: `CONNECT 4294967295` and the end of the line.
const LONGEST: usize = 19;

/// A socket on which a greeting comes.
pub(super) struct Greeting {
    pub(super) socket: Arc<OwnedFd>,
    line: Vec<u8>,
}

/// What has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// A port.
    Port(u32),
    /// Not all yet.
    Part,
    /// Something else, or the end.
    Nonsense,
}

impl Greeting {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket: Arc::new(socket), line: Vec::new() }
    }

    /// Reads what has come, and nothing of what is behind the line.
    pub(super) fn hear(&mut self) -> Heard {
        loop {
            let mut byte = [0];
            match recv(&self.socket, &mut byte, RecvFlags::DONTWAIT) {
                Ok((1, _)) if byte == *b"\n" => return port(&self.line).map_or(Heard::Nonsense, Heard::Port),
                Ok((1, _)) if self.line.len() < LONGEST - 1 => self.line.extend(byte),
                Err(Errno::AGAIN) => return Heard::Part,
                Err(Errno::INTR) => {}
                Ok(_) | Err(_) => return Heard::Nonsense,
            }
        }
    }
}

fn port(line: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(line).ok()?.strip_prefix("CONNECT ")?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_greeting_is_a_line_and_what_follows_is_left() {
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        let mut rest = ours.try_clone().unwrap();
        let mut greeting = Greeting::new(ours.into());
        assert_eq!(greeting.hear(), Heard::Part);
        theirs.write_all(b"CONNECT 42949").unwrap();
        assert_eq!(greeting.hear(), Heard::Part);
        theirs.write_all(b"67295\nmore").unwrap();
        assert_eq!(greeting.hear(), Heard::Port(u32::MAX));
        drop(theirs);
        let mut text = String::new();
        rest.read_to_string(&mut text).unwrap();
        assert_eq!(text, "more");
    }

    #[test]
    fn all_else_is_nonsense() {
        for line in [
            "CONNECT \n",
            "CONNECT +1\n",
            "connect 1\n",
            "CONNECT 4294967296\n",
            "\n",
            "CONNECT 00000000000000",
        ] {
            let (mut theirs, ours) = UnixStream::pair().unwrap();
            theirs.write_all(line.as_bytes()).unwrap();
            assert_eq!(Greeting::new(ours.into()).hear(), Heard::Nonsense, "{line:?}");
        }
        let (_, ours) = UnixStream::pair().unwrap();
        assert_eq!(Greeting::new(ours.into()).hear(), Heard::Nonsense);
    }
}
