//! Sequence numbers: they go round (RFC 9293, 3.4).

/// A sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Seq(pub u32);

impl Seq {
    /// The number so many bytes on.
    pub(crate) fn plus(self, bytes: usize) -> Self {
        Self(self.0.wrapping_add(bytes as u32))
    }

    /// How many bytes it is after `other`; none if it is before it.
    pub(crate) fn since(self, other: Self) -> usize {
        let distance = self.0.wrapping_sub(other.0);
        if distance < 1 << 31 { distance as usize } else { 0 }
    }

    /// Whether it is before `other`.
    pub(crate) fn before(self, other: Self) -> bool {
        self.0.wrapping_sub(other.0) >= 1 << 31
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_round() {
        let near_end = Seq(u32::MAX - 1);
        assert_eq!(near_end.plus(3), Seq(1));
        assert!(near_end.before(Seq(1)) && !Seq(1).before(near_end) && !Seq(1).before(Seq(1)));
        assert_eq!((Seq(1).since(near_end), near_end.since(Seq(1))), (3, 0));
    }
}
