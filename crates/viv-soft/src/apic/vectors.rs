//! A set of interrupt vectors.

/// A set of interrupt vectors, as IRR, ISR and TMR hold them: bit `v % 64` of word `v / 64` is vector `v`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VectorSet(pub [u64; 4]);

impl VectorSet {
    /// The set of none.
    pub const EMPTY: Self = Self([0; 4]);

    /// Puts `vector` in.
    pub const fn insert(&mut self, vector: u8) {
        self.0[vector as usize / 64] |= 1 << (vector % 64);
    }

    /// Takes `vector` out.
    pub const fn remove(&mut self, vector: u8) {
        self.0[vector as usize / 64] &= !(1 << (vector % 64));
    }

    /// Whether `vector` is in it.
    #[must_use]
    pub const fn contains(&self, vector: u8) -> bool {
        self.0[vector as usize / 64] & (1 << (vector % 64)) != 0
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0[0] | self.0[1] | self.0[2] | self.0[3] == 0
    }

    /// The highest vector in it: the one of highest priority (SDM vol. 3, 11.8.3).
    #[must_use]
    pub fn highest(&self) -> Option<u8> {
        let word = (0..4).rev().find(|&word| self.0[word] != 0)?;
        Some((word * 64) as u8 + self.0[word].ilog2() as u8)
    }

    /// The vectors in it, lowest first.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0u8..=255).filter(move |&vector| self.contains(vector))
    }

    /// The 32 vectors from `32 * index` as the register page holds them.
    pub(super) const fn register(&self, index: u32) -> u32 {
        (self.0[index as usize / 2] >> (index % 2 * 32)) as u32
    }

    /// Sets the 32 vectors from `32 * index`.
    pub(super) const fn set_register(&mut self, index: u32, value: u32) {
        let shift = index % 2 * 32;
        let word = &mut self.0[index as usize / 2];
        *word = (*word & !(0xffff_ffff << shift)) | ((value as u64) << shift);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_is_found_in_every_word() {
        let mut set = VectorSet::EMPTY;
        assert_eq!(set.highest(), None);
        for vector in [0, 1, 63, 64, 100, 127, 128, 191, 192, 254, 255] {
            set.insert(vector);
            assert_eq!(set.highest(), Some(vector));
        }
        set.remove(255);
        assert_eq!(set.highest(), Some(254));
        assert_eq!(set.iter().count(), 10);
    }

    #[test]
    fn registers_are_32_vectors_each() {
        let mut set = VectorSet::EMPTY;
        set.insert(33);
        set.insert(64);
        set.insert(255);
        let registers: Vec<_> = (0..8).map(|index| set.register(index)).collect();
        assert_eq!(registers, [0, 2, 1, 0, 0, 0, 0, 1 << 31]);
        let mut copy = VectorSet([u64::MAX; 4]);
        for (index, value) in registers.into_iter().enumerate() {
            copy.set_register(index as u32, value);
        }
        assert_eq!(copy, set);
    }
}
