//! The packets by which QEMU's users switch to physical addresses and back: `qqemu.PhyMemMode` asks, `Qqemu.PhyMemMode:1`
//! and `:0` set. `gdbstub` knows none that are not its own, so they are taken out of the stream before it.

const QUERY: &[u8] = b"qqemu.PhyMemMode";
const SET: &[u8] = b"Qqemu.PhyMemMode:";
const NO_ACK: &[u8] = b"QStartNoAckMode";
/// More than any of these has, with its argument.
const MOST: usize = 24;

/// What comes out of the stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// These bytes are for others.
    Bytes(Vec<u8>),
    /// Are addresses physical?
    Query,
    /// They are to be, or not.
    Set(bool),
}

/// Finds these packets in the stream.
#[derive(Debug, Default)]
pub(super) struct Filter {
    state: State,
    /// Whether packets are answered without a `+` before.
    pub(super) no_ack: bool,
}

#[derive(Debug, Default)]
enum State {
    /// Between packets.
    #[default]
    Between,
    /// In a packet that may still be one of these, whose bytes are held back.
    Held(Vec<u8>),
    /// In another packet.
    Passing,
    /// In a packet's checksum, with so many digits to come.
    Checksum { left: u8, held: Vec<u8> },
}

impl Filter {
    /// Takes the next byte, and gives what has become clear by it.
    pub(super) fn take(&mut self, byte: u8) -> Option<Item> {
        let pass = Some(Item::Bytes(vec![byte]));
        match std::mem::take(&mut self.state) {
            State::Between if byte == b'$' => {
                self.state = State::Held(vec![byte]);
                None
            }
            State::Between => pass,
            State::Passing => {
                self.state =
                    if byte == b'#' { State::Checksum { left: 2, held: Vec::new() } } else { State::Passing };
                pass
            }
            State::Held(mut held) => {
                held.push(byte);
                if byte == b'#' {
                    self.state = State::Checksum { left: 2, held };
                    None
                } else if may_be_one(held.get(1..).unwrap_or_default()) {
                    self.state = State::Held(held);
                    None
                } else {
                    self.state = State::Passing;
                    Some(Item::Bytes(held))
                }
            }
            State::Checksum { left, mut held } => {
                if held.is_empty() {
                    if left > 1 {
                        self.state = State::Checksum { left: left - 1, held };
                    }
                    return pass;
                }
                held.push(byte);
                if left > 1 {
                    self.state = State::Checksum { left: left - 1, held };
                    return None;
                }
                Some(self.whole(held))
            }
        }
    }

    /// A packet that was held back to its end.
    fn whole(&mut self, packet: Vec<u8>) -> Item {
        let payload = packet.get(1..packet.len().saturating_sub(3)).unwrap_or_default();
        match payload.strip_prefix(SET) {
            _ if payload == QUERY => Item::Query,
            Some(b"0") => Item::Set(false),
            Some(b"1") => Item::Set(true),
            _ => {
                self.no_ack |= payload == NO_ACK;
                Item::Bytes(packet)
            }
        }
    }

    /// A packet with this payload, with what comes before it.
    pub(super) fn reply(&self, payload: &str) -> Vec<u8> {
        let sum = payload.bytes().fold(0u8, u8::wrapping_add);
        let ack = if self.no_ack { "" } else { "+" };
        format!("{ack}${payload}#{sum:02x}").into_bytes()
    }
}

fn may_be_one(payload: &[u8]) -> bool {
    payload.len() < MOST
        && [QUERY, SET, NO_ACK].iter().any(|one| one.starts_with(payload) || payload.starts_with(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(stream: &str) -> (Vec<Item>, String) {
        let mut filter = Filter::default();
        let mut passed = String::new();
        let mut items = Vec::new();
        for item in stream.bytes().filter_map(|byte| filter.take(byte)) {
            match item {
                Item::Bytes(bytes) => passed.push_str(std::str::from_utf8(&bytes).unwrap()),
                item => items.push(item),
            }
        }
        (items, passed)
    }

    #[test]
    fn only_its_own_packets_are_taken() {
        let others = "+$qSupported:a+#00$m0,4#fd\u{3}$#00$Qqemu.PhyMemMode:2#xx$QStartNoAckMode#b0+$q#71";
        assert_eq!(items(others), (vec![], others.into()));
        let mixed = "$?#3f$qqemu.PhyMemMode#00+$Qqemu.PhyMemMode:1#00$g#67$Qqemu.PhyMemMode:0#00";
        let found = vec![Item::Query, Item::Set(true), Item::Set(false)];
        assert_eq!(items(mixed), (found, "$?#3f+$g#67".into()));
    }

    #[test]
    fn replies_are_packets() {
        let mut filter = Filter::default();
        assert_eq!(filter.reply("OK"), b"+$OK#9a");
        for &byte in b"$QStartNoAckMode#b0" {
            filter.take(byte);
        }
        assert_eq!(filter.reply("1"), b"$1#31");
    }
}
