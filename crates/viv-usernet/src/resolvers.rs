//! The host's name servers, as resolv.conf(5) lists them.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::SystemTime;

use crate::policy::DNS_PORT;

/// How many name servers are used (MAXNS of resolv.conf(5)).
const MAX: usize = 3;
/// How much of the file is read, in bytes.
const MAX_LENGTH: u64 = 64 << 10;

/// The name servers, of which one is in use.
#[derive(Debug)]
pub(crate) struct Resolvers {
    path: PathBuf,
    /// When the file was changed that they are from.
    changed: Option<SystemTime>,
    list: Vec<SocketAddr>,
    current: usize,
}

impl Resolvers {
    /// Those of the file as it is now. Its changes are followed for as long as it can be seen.
    pub(crate) fn new(path: PathBuf) -> Self {
        let mut resolvers = Self { path, changed: None, list: Vec::new(), current: 0 };
        resolvers.follow();
        resolvers
    }

    /// A list that is from no file.
    #[cfg(test)]
    pub(crate) fn of(list: Vec<SocketAddr>) -> Self {
        Self { path: PathBuf::from("/nonexistent"), changed: None, list, current: 0 }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// The one in use, of the list as it is now.
    pub(crate) fn current(&mut self) -> Option<SocketAddr> {
        self.follow();
        self.list.get(self.current).copied()
    }

    /// Reads the file again if it has changed. One that is gone, or out of reach, is as it was.
    fn follow(&mut self) {
        let Ok(changed) = fs::metadata(&self.path).and_then(|data| data.modified()) else { return };
        if self.changed != Some(changed) {
            self.changed = Some(changed);
            self.list = read(&self.path);
            self.current = 0;
        }
    }

    /// Goes on to the next after one that did not answer.
    pub(crate) fn failed(&mut self, server: SocketAddr) {
        if self.list.get(self.current) == Some(&server) {
            self.current = self.current.wrapping_add(1).checked_rem(self.list.len()).unwrap_or(0);
        }
    }
}

fn read(path: &PathBuf) -> Vec<SocketAddr> {
    use std::io::Read;
    let mut text = String::new();
    let read = fs::File::open(path).and_then(|file| file.take(MAX_LENGTH).read_to_string(&mut text));
    if read.is_err() {
        return Vec::new();
    }
    parse(&text)
}

/// The name servers in a resolv.conf(5). Where there are none, there is one on the host.
fn parse(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        // An address with a scope (fe80::1%eth0) would need the interface's number.
        let address: IpAddr = (words.next()? == "nameserver").then(|| words.next())??.parse().ok()?;
        Some(SocketAddr::new(address, DNS_PORT))
    };
    let mut list: Vec<_> = text.lines().filter_map(server).take(MAX).collect();
    if list.is_empty() {
        list.push((std::net::Ipv4Addr::LOCALHOST, DNS_PORT).into());
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_and_changed() {
        let text =
            "# a comment\nsearch example.org\nnameserver 192.0.2.1\n nameserver\tfd00::1 \nnameserver x\n";
        assert_eq!(parse(text), ["192.0.2.1:53".parse().unwrap(), "[fd00::1]:53".parse().unwrap()]);
        assert_eq!(parse("options edns0\n"), ["127.0.0.1:53".parse().unwrap()]);
    }

    #[test]
    fn the_next_one_is_used_when_one_fails() {
        let mut resolvers = Resolvers::of(parse("nameserver 192.0.2.1\nnameserver 192.0.2.2\n"));
        let first = resolvers.current().unwrap();
        resolvers.failed(first);
        let second = resolvers.current().unwrap();
        assert_ne!(first, second);
        resolvers.failed(first);
        assert_eq!(resolvers.current(), Some(second), "only the one in use counts");
        resolvers.failed(second);
        assert_eq!(resolvers.current(), Some(first));
    }
}
