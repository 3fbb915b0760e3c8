//! Entries of L1 and L2 tables.

use super::geometry::Geometry;

/// The refcount of what the entry points to is exactly 1: it may be changed in its place.
pub(super) const COPIED: u64 = 1 << 63;
/// The cluster is compressed.
const COMPRESSED: u64 = 1 << 62;
/// Bits 9 to 55, an offset in the file.
pub(super) const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Reads as zeroes (version 3, without subclusters).
const ZERO: u64 = 1;
/// The bits of a word that have a meaning.
const KNOWN: u64 = COPIED | COMPRESSED | OFFSET | ZERO;

/// An L2 entry. Without subclusters there is no bitmap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Entry {
    /// The offset in the file, with flags.
    pub(super) word: u64,
    /// Bit n: subcluster n is allocated. Bit 32 + n: it reads as zeroes.
    pub(super) bitmap: u64,
}

/// What a unit reads as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// What the backing file has.
    Unallocated,
    /// Zeroes.
    Zero,
    /// What is in the file.
    Data,
    /// What is in the file, compressed.
    Compressed,
}

/// Where the data of a compressed cluster lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packed {
    /// Where it begins, not aligned to anything.
    pub(super) offset: u64,
    /// How long it is at the most.
    pub(super) length: u64,
}

impl Entry {
    /// One that points to the cluster at `host`, of which nothing is allocated yet.
    pub(super) fn at(host: u64) -> Self {
        Self { word: host | COPIED, bitmap: 0 }
    }

    /// A whole cluster that reads as zeroes, in the cluster at `host` if one is kept for it.
    pub(super) fn zero(geometry: Geometry, host: Option<u64>) -> Self {
        let word = host.map_or(0, |host| host | COPIED);
        if geometry.extended {
            Self { word, bitmap: 0xffff_ffff_0000_0000 }
        } else {
            Self { word: word | ZERO, bitmap: 0 }
        }
    }

    /// One for compressed data of `length` bytes at `offset`.
    pub(super) fn packed(geometry: Geometry, offset: u64, length: u64) -> Self {
        let last = offset.saturating_add(length).saturating_sub(1) / 512;
        let sectors = last.saturating_sub(offset / 512);
        let word = COMPRESSED | offset | sectors.wrapping_shl(sector_shift(geometry));
        Self { word, bitmap: 0 }
    }

    /// The cluster's offset in the file, unless it is compressed or has none.
    pub(super) fn host(self) -> Option<u64> {
        let offset = self.word & OFFSET;
        (self.word & COMPRESSED == 0 && offset != 0).then_some(offset)
    }

    /// The cluster's offset in the file, if it may be changed there.
    pub(super) fn own_host(self) -> Option<u64> {
        self.host().filter(|_| self.word & COPIED != 0)
    }

    /// Where the compressed data lies, if the cluster is compressed.
    pub(super) fn compressed(self, geometry: Geometry) -> Option<Packed> {
        if self.word & COMPRESSED == 0 {
            return None;
        }
        let shift = sector_shift(geometry);
        let field = self.word & !(COPIED | COMPRESSED);
        let offset = field & 1_u64.wrapping_shl(shift).wrapping_sub(1);
        let sectors = field.wrapping_shr(shift).saturating_add(1);
        Some(Packed { offset, length: sectors.saturating_mul(512).saturating_sub(offset % 512) })
    }

    /// The state of a unit.
    pub(super) fn state(self, geometry: Geometry, unit: u32) -> State {
        if self.word & COMPRESSED != 0 {
            return State::Compressed;
        }
        if geometry.extended {
            return match (
                self.bitmap.wrapping_shr(unit) & 1,
                self.bitmap.wrapping_shr(unit.wrapping_add(32)) & 1,
            ) {
                (_, 1) => State::Zero,
                (1, _) => State::Data,
                _ => State::Unallocated,
            };
        }
        if self.word & ZERO != 0 {
            State::Zero
        } else if self.word & OFFSET != 0 {
            State::Data
        } else {
            State::Unallocated
        }
    }

    /// With units `first` to `last` as data in its cluster.
    pub(super) fn with_data(mut self, geometry: Geometry, first: u32, last: u32) -> Self {
        if geometry.extended {
            let units =
                u32::MAX.wrapping_shl(first) & u32::MAX.wrapping_shr(31_u32.wrapping_sub(last.min(31)));
            let units = u64::from(units);
            self.bitmap = (self.bitmap | units) & !units.wrapping_shl(32);
        } else {
            self.word &= !ZERO;
        }
        self
    }

    /// What the format does not allow about it.
    pub(super) fn fault(self, geometry: Geometry) -> Option<&'static str> {
        if self.word & COMPRESSED != 0 {
            return (self.bitmap != 0).then_some("a compressed cluster has subclusters");
        }
        if self.word & !KNOWN != 0 {
            return Some("reserved bits are set");
        }
        if geometry.within(self.word & OFFSET) != 0 {
            return Some("its cluster is not aligned");
        }
        if geometry.extended {
            if self.word & ZERO != 0 {
                return Some("reserved bits are set");
            }
            let allocated = self.bitmap & 0xffff_ffff;
            if allocated & self.bitmap.wrapping_shr(32) != 0 {
                return Some("a subcluster is allocated and reads as zeroes");
            }
            if allocated != 0 && self.word & OFFSET == 0 {
                return Some("a subcluster is allocated in no cluster");
            }
        } else if geometry.version < 3 && self.word & ZERO != 0 {
            return Some("it reads as zeroes, which version 2 does not know");
        }
        None
    }
}

/// Where the number of sectors begins in the descriptor of a compressed cluster.
fn sector_shift(geometry: Geometry) -> u32 {
    70_u32.wrapping_sub(geometry.cluster_bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Geometry = Geometry { version: 3, cluster_bits: 16, refcount_order: 4, extended: false };
    const EXTENDED: Geometry = Geometry { extended: true, ..PLAIN };

    #[test]
    fn compressed_data_lies_where_it_was_put() {
        for cluster_bits in [9, 16, 21] {
            let geometry = Geometry { cluster_bits, ..PLAIN };
            for (offset, length) in [(0x5_0000, 1), (0x5_01ff, 2), (0x5_0123, 512), (1 << 40, 700)] {
                let packed = Entry::packed(geometry, offset, length).compressed(geometry).unwrap();
                assert_eq!(packed.offset, offset);
                assert!(packed.length >= length && (packed.offset + packed.length).is_multiple_of(512));
                assert!(packed.length < length + 512);
            }
        }
    }

    #[test]
    fn subclusters_have_states_of_their_own() {
        let mut entry = Entry::at(0x10000).with_data(EXTENDED, 3, 4);
        entry.bitmap |= 0xffff_ffe0 << 32;
        let states: Vec<State> = (2..7).map(|unit| entry.state(EXTENDED, unit)).collect();
        assert_eq!(states, [State::Unallocated, State::Data, State::Data, State::Zero, State::Zero]);
        assert_eq!(entry.fault(EXTENDED), None);
        assert!(Entry { word: 0, bitmap: 1 }.fault(EXTENDED).is_some());
        assert!(Entry { word: COPIED | 0x10000, bitmap: 1 | 1 << 32 }.fault(EXTENDED).is_some());
    }

    #[test]
    fn what_the_format_does_not_allow_is_noticed() {
        assert!(Entry { word: 0x10200, bitmap: 0 }.fault(PLAIN).is_some());
        assert!(Entry { word: 0x10002, bitmap: 0 }.fault(PLAIN).is_some());
        assert!(Entry::zero(PLAIN, None).fault(Geometry { version: 2, ..PLAIN }).is_some());
        assert_eq!(Entry::zero(PLAIN, Some(0x10000)).fault(PLAIN), None);
    }
}
