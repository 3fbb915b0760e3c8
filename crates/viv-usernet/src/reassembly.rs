//! Packets that come in pieces (RFC 791, 3.2; RFC 8200, 4.5).

use std::net::IpAddr;
use std::time::{Duration, Instant};

use smoltcp::wire::IpProtocol;

use crate::frame::{Fragment, Packet};

/// How many packets are put together at a time.
const MAX_PACKETS: usize = 16;
/// Of how many pieces each.
const MAX_PIECES: usize = 64;
/// The longest packet, in bytes.
const MAX_LENGTH: usize = 65_535;
/// How long pieces wait for the others.
const PATIENCE: Duration = Duration::from_secs(30);

/// What says that pieces belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    source: IpAddr,
    destination: IpAddr,
    protocol: IpProtocol,
    identification: u32,
}

#[derive(Debug)]
struct Incomplete {
    key: Key,
    since: Instant,
    /// The pieces, by offset.
    pieces: Vec<(usize, Vec<u8>)>,
    /// How long the whole is, once the last piece is there.
    length: Option<usize>,
}

/// A packet whose pieces are all there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Whole {
    key: Key,
    payload: Vec<u8>,
}

impl Whole {
    pub(crate) fn packet(&self) -> Packet<'_> {
        Packet {
            source: self.key.source,
            destination: self.key.destination,
            protocol: self.key.protocol,
            // A limit that a router has counted down: neighbour discovery never comes in pieces (RFC 6980).
            hops: 0,
            payload: &self.payload,
        }
    }
}

/// The packets of which pieces are missing, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Reassembly {
    packets: Vec<Incomplete>,
}

impl Reassembly {
    /// Takes a piece, and gives the packet if it was the last one missing.
    pub(crate) fn add(&mut self, fragment: &Fragment<'_>, now: Instant) -> Option<Whole> {
        self.packets.retain(|packet| now.saturating_duration_since(packet.since) < PATIENCE);
        let key = Key {
            source: fragment.source,
            destination: fragment.destination,
            protocol: fragment.protocol,
            identification: fragment.identification,
        };
        let mut packet = match self.packets.iter().position(|packet| packet.key == key) {
            Some(place) => self.packets.remove(place),
            None => Incomplete { key, since: now, pieces: Vec::new(), length: None },
        };
        // A packet with a wrong piece is dropped with all of its pieces (RFC 5722).
        packet.add(fragment)?;
        match packet.complete() {
            Some(payload) => Some(Whole { key, payload }),
            None => {
                if self.packets.len() >= MAX_PACKETS {
                    self.packets.remove(0);
                }
                self.packets.push(packet);
                None
            }
        }
    }
}

impl Incomplete {
    /// Takes a piece, unless it does not go with the others.
    fn add(&mut self, fragment: &Fragment<'_>) -> Option<()> {
        let (start, data) = (fragment.offset, fragment.payload);
        let end = start.checked_add(data.len()).filter(|end| *end <= MAX_LENGTH)?;
        if fragment.more && (data.is_empty() || data.len() & 7 != 0) {
            return None;
        }
        if !fragment.more && self.length.replace(end).is_some() {
            return None;
        }
        let place = self.pieces.partition_point(|piece| piece.0 < start);
        let before = place.checked_sub(1).and_then(|before| self.pieces.get(before));
        let overlaps = before.is_some_and(|(at, piece)| at.saturating_add(piece.len()) > start)
            || self.pieces.get(place).is_some_and(|next| next.0 < end);
        let last = self.pieces.last().map_or(end, |(at, piece)| at.saturating_add(piece.len()).max(end));
        if overlaps || self.length.is_some_and(|length| length < last) || self.pieces.len() >= MAX_PIECES {
            return None;
        }
        self.pieces.insert(place, (start, data.to_vec()));
        Some(())
    }

    /// The whole, if it is there.
    fn complete(&self) -> Option<Vec<u8>> {
        let length = self.length?;
        let there: usize = self.pieces.iter().map(|(_, piece)| piece.len()).sum();
        (there == length).then(|| self.pieces.iter().flat_map(|(_, piece)| piece).copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn piece(identification: u32, offset: usize, more: bool, payload: &[u8]) -> Fragment<'_> {
        Fragment {
            source: "10.0.2.15".parse().unwrap(),
            destination: "192.0.2.1".parse().unwrap(),
            protocol: IpProtocol::Udp,
            identification,
            offset,
            more,
            payload,
        }
    }

    proptest! {
        #[test]
        fn pieces_in_any_order_are_the_whole(
            data in prop::collection::vec(any::<u8>(), 9..4000),
            cuts in prop::collection::btree_set(1_usize..500, 1..20),
            order in any::<prop::sample::Index>(),
        ) {
            let mut ends: Vec<_> = cuts.iter().map(|cut| cut * 8).filter(|end| *end < data.len()).collect();
            ends.push(data.len());
            let starts: Vec<_> = [0].into_iter().chain(ends.iter().copied()).collect();
            let mut pieces: Vec<_> = starts.iter().zip(&ends)
                .map(|(&start, &end)| piece(7, start, end != data.len(), &data[start..end]))
                .collect();
            let by = order.index(pieces.len());
            pieces.rotate_left(by);
            let mut reassembly = Reassembly::default();
            let now = Instant::now();
            let last = pieces.pop().unwrap();
            for piece in &pieces {
                prop_assert_eq!(reassembly.add(piece, now), None);
            }
            let whole = reassembly.add(&last, now).unwrap();
            prop_assert_eq!(whole.packet().payload, &data[..]);
            prop_assert!(reassembly.packets.is_empty());
        }
    }

    #[test]
    fn pieces_that_overlap_spoil_the_packet() {
        let now = Instant::now();
        let mut reassembly = Reassembly::default();
        assert_eq!(reassembly.add(&piece(1, 0, true, &[0; 16]), now), None);
        assert_eq!(reassembly.add(&piece(1, 8, true, &[1; 16]), now), None);
        assert!(reassembly.packets.is_empty());
        assert_eq!(reassembly.add(&piece(1, 65_528, false, &[1; 8]), now), None, "it is too long");
        assert!(reassembly.packets.is_empty());
    }

    #[test]
    fn pieces_wait_for_a_limited_time_and_in_limited_number() {
        let now = Instant::now();
        let mut reassembly = Reassembly::default();
        for id in 0..40 {
            reassembly.add(&piece(id, 0, true, &[0; 8]), now);
        }
        assert_eq!(reassembly.packets.len(), MAX_PACKETS);
        reassembly.add(&piece(99, 0, true, &[0; 8]), now + PATIENCE);
        assert_eq!(reassembly.packets.len(), 1);
    }
}
