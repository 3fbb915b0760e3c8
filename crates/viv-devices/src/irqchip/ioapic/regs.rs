//! Registers of the 82093AA (Intel 82093AA data sheet, section 3), and the EOI register of later ones (ICH9
//! data sheet, 13.5).

use viv_engine::Msi;

/// IOREGSEL, by offset in memory.
pub(super) const SELECT: u64 = 0x00;
/// IOWIN.
pub(super) const WINDOW: u64 = 0x10;
/// EOI: ends the level-triggered interrupt whose vector is written.
pub(super) const EOI: u64 = 0x40;

/// What IOREGSEL selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Register {
    Id,
    Version,
    Arbitration,
    /// Half of the redirection entry of a pin.
    Redirection {
        pin: usize,
        high: bool,
    },
    Reserved,
}

impl Register {
    pub(super) fn from_index(index: u8) -> Self {
        match index {
            0 => Self::Id,
            1 => Self::Version,
            2 => Self::Arbitration,
            0x10..=0x3f => {
                let index = usize::from(index & 0x3f).saturating_sub(0x10);
                Self::Redirection { pin: index >> 1, high: index & 1 != 0 }
            }
            _ => Self::Reserved,
        }
    }
}

/// A redirection entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Redirection(pub(super) u64);

impl Redirection {
    const DELIVERY_STATUS: u64 = 1 << 12;
    const REMOTE_IRR: u64 = 1 << 14;
    const LEVEL: u64 = 1 << 15;
    const MASKED: u64 = 1 << 16;
    /// The guest can write everything but the two status bits. Bits 49 to 55 carry bits 8 to 14 of the
    /// destination, an extension that KVM and Linux share.
    const WRITABLE: u64 = 0xfffe_0000_0001_ffff & !Self::DELIVERY_STATUS & !Self::REMOTE_IRR;

    /// After power-on.
    pub(super) const RESET: Self = Self(Self::MASKED);

    pub(super) fn from_bits(bits: u64) -> Self {
        Self(bits & (Self::WRITABLE | Self::REMOTE_IRR))
    }

    pub(super) fn vector(self) -> u8 {
        self.0.to_le_bytes()[0]
    }

    pub(super) fn is_masked(self) -> bool {
        self.0 & Self::MASKED != 0
    }

    pub(super) fn is_level(self) -> bool {
        self.0 & Self::LEVEL != 0
    }

    /// A level-triggered interrupt was accepted and has not been ended.
    pub(super) fn remote_irr(self) -> bool {
        self.0 & Self::REMOTE_IRR != 0
    }

    pub(super) fn set_remote_irr(&mut self, value: bool) {
        self.0 = if value { self.0 | Self::REMOTE_IRR } else { self.0 & !Self::REMOTE_IRR };
    }

    /// One half.
    pub(super) fn half(self, high: bool) -> u32 {
        let [.., a, b, c, d] = if high { self.0.to_le_bytes() } else { (self.0 << 32).to_le_bytes() };
        u32::from_le_bytes([a, b, c, d])
    }

    /// Writes one half. An entry that is made edge-triggered forgets an unfinished level-triggered interrupt,
    /// which is how Linux ends one without an EOI register.
    pub(super) fn set_half(&mut self, high: bool, value: u32) {
        let value = u64::from(value);
        let bits =
            if high { (self.0 & 0xffff_ffff) | (value << 32) } else { (self.0 & !0xffff_ffff) | value };
        let mut kept = self.0 & Self::REMOTE_IRR;
        if bits & Self::LEVEL == 0 {
            kept = 0;
        }
        self.0 = (bits & Self::WRITABLE) | kept;
    }

    /// The message it sends, if it is level-triggered.
    pub(super) fn level_message(self) -> Option<Msi> {
        self.is_level().then(|| self.message())
    }

    /// The message it sends.
    pub(super) fn message(self) -> Msi {
        let destination = (self.0 >> 56) & 0xff;
        let destination_high = (self.0 >> 49) & 0x7f;
        let logical = (self.0 >> 11) & 1;
        let address = 0xfee0_0000 | (destination << 12) | (destination_high << 5) | (logical << 2);
        // Vector and delivery mode lie where a message has them; bit 14 says asserted.
        let level = if self.is_level() { 0xc000 } else { 0 };
        Msi { address, data: (self.half(false) & 0x7ff) | level }
    }
}
