//! The local vector table (SDM vol. 3, 11.5.1).

use viv_arch::apic::{DeliveryMode, reg};

/// Interrupt mask.
pub(super) const MASKED: u32 = 1 << 16;
/// Delivery status, read-only. Delivery is immediate here, so it reads 0.
const STATUS: u32 = 1 << 12;
/// Input polarity.
const POLARITY: u32 = 1 << 13;
/// Remote IRR, read-only.
const REMOTE_IRR: u32 = 1 << 14;
/// Trigger mode.
const LEVEL: u32 = 1 << 15;
/// Timer mode.
const TIMER_MODE: u32 = 3 << 17;
/// Delivery mode.
const DELIVERY_MODE: u32 = 7 << 8;
const VECTOR: u32 = 0xff;

/// The entries. The discriminant is the index into [`LocalVectorTable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Cmci,
    Timer,
    Thermal,
    Performance,
    Lint0,
    Lint1,
    Error,
}

impl Source {
    pub(super) const ALL: [Self; 7] =
        [Self::Cmci, Self::Timer, Self::Thermal, Self::Performance, Self::Lint0, Self::Lint1, Self::Error];

    /// The entry that this register is.
    pub(super) const fn from_register(register: u32) -> Option<Self> {
        Some(match register {
            reg::LVT_CMCI => Self::Cmci,
            reg::LVT_TIMER => Self::Timer,
            reg::LVT_THERMAL => Self::Thermal,
            reg::LVT_PERF => Self::Performance,
            reg::LVT_LINT0 => Self::Lint0,
            reg::LVT_LINT1 => Self::Lint1,
            reg::LVT_ERROR => Self::Error,
            _ => return None,
        })
    }

    /// The register that this entry is.
    pub(super) const fn register(self) -> u32 {
        match self {
            Self::Cmci => reg::LVT_CMCI,
            Self::Timer => reg::LVT_TIMER,
            Self::Thermal => reg::LVT_THERMAL,
            Self::Performance => reg::LVT_PERF,
            Self::Lint0 => reg::LVT_LINT0,
            Self::Lint1 => reg::LVT_LINT1,
            Self::Error => reg::LVT_ERROR,
        }
    }

    /// The bits that software can change.
    const fn writable(self) -> u32 {
        VECTOR
            | MASKED
            | match self {
                Self::Cmci | Self::Thermal | Self::Performance => DELIVERY_MODE,
                Self::Timer => TIMER_MODE,
                Self::Lint0 | Self::Lint1 => DELIVERY_MODE | POLARITY | LEVEL,
                Self::Error => 0,
            }
    }

    /// The bits that software can write in x2APIC mode without an exception.
    pub(super) const fn defined(self) -> u32 {
        self.writable()
            | STATUS
            | match self {
                Self::Lint0 | Self::Lint1 => REMOTE_IRR,
                _ => 0,
            }
    }
}

/// One entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry(u32);

impl Entry {
    pub(super) const fn is_masked(self) -> bool {
        self.0 & MASKED != 0
    }

    pub(super) const fn vector(self) -> u8 {
        self.0 as u8
    }

    pub(super) const fn timer_mode(self) -> u32 {
        (self.0 & TIMER_MODE) >> 17
    }

    /// Whether it is unmasked and has this delivery mode.
    pub(super) fn delivers(self, mode: DeliveryMode) -> bool {
        !self.is_masked() && DeliveryMode::from_bits((self.0 >> 8) as u8) == Some(mode)
    }
}

/// The table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LocalVectorTable([u32; 7]);

impl LocalVectorTable {
    /// After power-on: all masked.
    pub(super) const RESET: Self = Self([MASKED; 7]);

    pub(super) const fn entry(&self, source: Source) -> Entry {
        Entry(self.0[source as usize])
    }

    pub(super) const fn read(&self, source: Source) -> u32 {
        self.0[source as usize]
    }

    /// Writes an entry. While the APIC is disabled by software (`enabled` is false), it stays masked
    /// (SDM vol. 3, 11.4.7.2).
    pub(super) const fn write(&mut self, source: Source, value: u32, enabled: bool) {
        let mask = if enabled { 0 } else { MASKED };
        self.0[source as usize] = value & source.writable() | mask;
    }

    /// What happens when software disables the APIC.
    pub(super) fn mask_all(&mut self) {
        for entry in &mut self.0 {
            *entry |= MASKED;
        }
    }
}
