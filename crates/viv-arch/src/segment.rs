//! Segments and descriptor tables (SDM vol. 3, 3.4 and 3.5).

use serde::{Deserialize, Serialize};

/// The segment registers, numbered as in instruction encodings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs, reason = "the SDM's own mnemonics")]
pub enum SegmentRegister {
    Es = 0,
    Cs = 1,
    Ss = 2,
    Ds = 3,
    Fs = 4,
    Gs = 5,
}

/// A segment register, LDTR or TR with its hidden part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Segment {
    /// The visible part.
    pub selector: u16,
    /// Access rights as in bits 8 to 23 of a descriptor's second double word, moved down by 8: type in bits
    /// 0 to 3, S in 4, DPL in 5 and 6, P in 7, AVL in 12, L in 13, D/B in 14, G in 15. Bit 16 marks a
    /// segment that cannot be used (as in VMX, SDM vol. 3, 25.4.1).
    pub attributes: u32,
    /// The limit in bytes, granularity applied.
    pub limit: u32,
    /// The linear base.
    pub base: u64,
}

impl Segment {
    /// Bit of [`Segment::attributes`]: the segment cannot be used.
    pub const UNUSABLE: u32 = 1 << 16;
    /// Bit of [`Segment::attributes`]: present.
    pub const PRESENT: u32 = 1 << 7;
    /// Bit of [`Segment::attributes`]: code or data, not system.
    pub const NON_SYSTEM: u32 = 1 << 4;
    /// Bit of [`Segment::attributes`]: 64-bit code.
    pub const LONG: u32 = 1 << 13;
    /// Bit of [`Segment::attributes`]: 32-bit default (D) or big stack (B).
    pub const DEFAULT_BIG: u32 = 1 << 14;
    /// Bit of [`Segment::attributes`]: the limit counts 4 KiB units.
    pub const GRANULARITY: u32 = 1 << 15;

    /// A segment from the eight bytes of its descriptor in the GDT or LDT.
    ///
    /// System descriptors in long mode have eight bytes more for the base's upper half: the caller adds it.
    #[must_use]
    pub const fn from_descriptor(selector: u16, descriptor: u64) -> Self {
        let base = ((descriptor >> 16) & 0x00ff_ffff) | ((descriptor >> 32) & 0xff00_0000);
        let raw_limit = ((descriptor & 0xffff) | ((descriptor >> 32) & 0xf_0000)) as u32;
        let attributes = ((descriptor >> 40) & 0xf0ff) as u32;
        let limit = if attributes & Self::GRANULARITY != 0 { (raw_limit << 12) | 0xfff } else { raw_limit };
        Self { selector, attributes, limit, base }
    }

    /// The eight descriptor bytes that [`Segment::from_descriptor`] would read this segment from.
    #[must_use]
    pub const fn to_descriptor(self) -> u64 {
        let raw_limit =
            if self.attributes & Self::GRANULARITY != 0 { self.limit >> 12 } else { self.limit } as u64;
        (raw_limit & 0xffff)
            | ((self.base & 0x00ff_ffff) << 16)
            | (((self.attributes & 0xf0ff) as u64) << 40)
            | ((raw_limit & 0xf_0000) << 32)
            | ((self.base & 0xff00_0000) << 32)
    }

    /// A flat 64-bit code segment at privilege level `dpl`.
    #[must_use]
    pub const fn code64(selector: u16, dpl: u32) -> Self {
        Self { selector, attributes: 0xa09b | (dpl << 5), limit: u32::MAX, base: 0 }
    }

    /// A flat 32-bit code segment at privilege level `dpl`.
    #[must_use]
    pub const fn code32(selector: u16, dpl: u32) -> Self {
        Self { selector, attributes: 0xc09b | (dpl << 5), limit: u32::MAX, base: 0 }
    }

    /// A flat, writable data segment at privilege level `dpl`.
    #[must_use]
    pub const fn data(selector: u16, dpl: u32) -> Self {
        Self { selector, attributes: 0xc093 | (dpl << 5), limit: u32::MAX, base: 0 }
    }

    /// The descriptor privilege level.
    #[must_use]
    pub const fn dpl(self) -> u8 {
        ((self.attributes >> 5) & 3) as u8
    }

    /// The type field: bits 0 to 3.
    #[must_use]
    pub const fn kind(self) -> u8 {
        (self.attributes & 0xf) as u8
    }

    /// Whether it is present and usable.
    #[must_use]
    pub const fn is_usable(self) -> bool {
        self.attributes & Self::UNUSABLE == 0
    }

    /// Whether the P bit is set.
    #[must_use]
    pub const fn is_present(self) -> bool {
        self.attributes & Self::PRESENT != 0
    }

    /// Whether it is a code or data segment (S set).
    #[must_use]
    pub const fn is_code_or_data(self) -> bool {
        self.attributes & Self::NON_SYSTEM != 0
    }

    /// Whether it is a code segment.
    #[must_use]
    pub const fn is_code(self) -> bool {
        self.is_code_or_data() && self.attributes & 8 != 0
    }
}

/// GDTR or IDTR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DescriptorTable {
    /// Linear address of the table.
    pub base: u64,
    /// Its size in bytes, less one.
    pub limit: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptor_round_trip() {
        for segment in [Segment::code64(8, 0), Segment::code32(0x23, 3), Segment::data(0x2b, 3)] {
            assert_eq!(Segment::from_descriptor(segment.selector, segment.to_descriptor()), segment);
        }
    }

    #[test]
    fn linux_user_data_descriptor() {
        let segment = Segment::from_descriptor(0x2b, 0x00cf_f300_0000_ffff);
        assert_eq!((segment.base, segment.limit, segment.dpl()), (0, u32::MAX, 3));
        assert!(!segment.is_code() && segment.is_present());
    }
}
