//! Which frames a guest wants (VIRTIO 1.3, 5.1.6.5.1 and 5.1.6.5.2).

use serde::{Deserialize, Serialize};

use super::regs::rx;

/// An address of Ethernet.
pub type MacAddress = [u8; 6];

const BROADCAST: MacAddress = [0xff; 6];
/// The most addresses that a table keeps. Of a longer one all addresses are taken to be in it.
const MAX_TABLE: usize = 64;

/// What is received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Filter {
    promisc: bool,
    allmulti: bool,
    alluni: bool,
    nomulti: bool,
    nouni: bool,
    nobcast: bool,
    unicast: Table,
    multicast: Table,
}

/// Addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Table {
    addresses: Vec<MacAddress>,
    /// There were too many.
    all: bool,
}

impl Table {
    fn new(addresses: &[MacAddress]) -> Self {
        if addresses.len() > MAX_TABLE {
            Self { addresses: Vec::new(), all: true }
        } else {
            Self { addresses: addresses.to_vec(), all: false }
        }
    }

    fn has(&self, address: &MacAddress) -> bool {
        self.all || self.addresses.contains(address)
    }
}

impl Default for Filter {
    /// Everything is received, until a driver says what.
    fn default() -> Self {
        Self {
            promisc: true,
            allmulti: false,
            alluni: false,
            nomulti: false,
            nouni: false,
            nobcast: false,
            unicast: Table::default(),
            multicast: Table::default(),
        }
    }
}

impl Filter {
    /// Turns a mode on or off; false if there is no such command.
    pub(super) fn set_mode(&mut self, command: u8, on: bool) -> bool {
        let mode = match command {
            rx::PROMISC => &mut self.promisc,
            rx::ALLMULTI => &mut self.allmulti,
            rx::ALLUNI => &mut self.alluni,
            rx::NOMULTI => &mut self.nomulti,
            rx::NOUNI => &mut self.nouni,
            rx::NOBCAST => &mut self.nobcast,
            _ => return false,
        };
        *mode = on;
        true
    }

    /// Takes these addresses besides the device's own, and these groups'.
    pub(super) fn set_tables(&mut self, unicast: &[MacAddress], multicast: &[MacAddress]) {
        (self.unicast, self.multicast) = (Table::new(unicast), Table::new(multicast));
    }

    /// Whether a frame to `to` is for a guest whose address is `own`.
    pub(super) fn accepts(&self, to: &MacAddress, own: &MacAddress) -> bool {
        if self.promisc {
            return true;
        }
        let [first, ..] = to;
        if *to == BROADCAST {
            !self.nobcast
        } else if first & 1 != 0 {
            !self.nomulti && (self.allmulti || self.multicast.has(to))
        } else {
            !self.nouni && (self.alluni || to == own || self.unicast.has(to))
        }
    }

    /// Whether a saved one is one that there can be.
    pub(super) fn is_valid(&self) -> bool {
        [&self.unicast, &self.multicast].iter().all(|table| table.addresses.len() <= MAX_TABLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: MacAddress = [2, 0, 0, 0, 0, 1];
    const OTHER: MacAddress = [2, 0, 0, 0, 0, 2];
    const GROUP: MacAddress = [1, 0, 0x5e, 0, 0, 1];

    #[test]
    fn modes_and_tables_decide() {
        let accepts = |filter: &Filter| [OWN, OTHER, GROUP, BROADCAST].map(|to| filter.accepts(&to, &OWN));
        let mut filter = Filter::default();
        assert_eq!(accepts(&filter), [true; 4]);
        assert!(filter.set_mode(rx::PROMISC, false));
        assert_eq!(accepts(&filter), [true, false, false, true]);
        filter.set_tables(&[OTHER], &[GROUP]);
        assert_eq!(accepts(&filter), [true; 4]);
        filter.set_tables(&[], &[]);
        for (command, expected) in [
            (rx::ALLMULTI, [true, false, true, true]),
            (rx::ALLUNI, [true, true, false, true]),
            (rx::NOUNI, [false, false, false, true]),
            (rx::NOBCAST, [true, false, false, false]),
        ] {
            assert!(filter.set_mode(command, true));
            assert_eq!(accepts(&filter), expected, "{command}");
            assert!(filter.set_mode(command, false));
        }
        filter.set_tables(&[], &[GROUP]);
        filter.set_mode(rx::NOMULTI, true);
        assert_eq!(accepts(&filter), [true, false, false, true]);
        assert!(!filter.set_mode(6, true));
    }

    #[test]
    fn a_table_that_is_too_long_holds_everything() {
        let mut filter = Filter::default();
        filter.set_mode(rx::PROMISC, false);
        filter.set_tables(&[OWN; MAX_TABLE + 1], &[]);
        assert!(filter.accepts(&OTHER, &OWN) && !filter.accepts(&GROUP, &OWN) && filter.is_valid());
    }
}
