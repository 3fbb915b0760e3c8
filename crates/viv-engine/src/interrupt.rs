//! Interrupts on their way to local APICs.

use viv_arch::apic::DeliveryMode;

/// A message-signalled interrupt: a write of `data` to `address` in the range 0xfee0_0000 to 0xfeef_ffff
/// (SDM vol. 3, 11.11).
///
/// Destinations beyond 255 use the extended format that KVM and Linux share: bits 5 to 11 of `address` carry
/// bits 8 to 14 of the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Msi {
    /// The address written.
    pub address: u64,
    /// The data written.
    pub data: u32,
}

impl Msi {
    /// The destination's APIC id, or set of logical destinations.
    #[must_use]
    pub const fn destination(self) -> u32 {
        (((self.address >> 12) & 0xff) | ((self.address << 3) & 0x7f00)) as u32
    }

    /// Whether the destination is logical.
    #[must_use]
    pub const fn is_logical(self) -> bool {
        self.address & 4 != 0
    }

    /// The vector.
    #[must_use]
    pub const fn vector(self) -> u8 {
        self.data as u8
    }

    /// The delivery mode, unless reserved.
    #[must_use]
    pub const fn delivery_mode(self) -> Option<DeliveryMode> {
        DeliveryMode::from_bits((self.data >> 8) as u8)
    }

    /// Whether it is level-triggered (and asserted: a de-asserted one is not sent).
    #[must_use]
    pub const fn is_level(self) -> bool {
        self.data & (1 << 15) != 0
    }
}

/// Takes message-signalled interrupts to the local APICs they name. Any thread may call it; it does not block.
pub trait MsiTarget: Send + Sync {
    /// Sends one. A message that names nobody is dropped.
    fn send_msi(&self, msi: Msi);

    /// Says which level-triggered message pin `pin` of the IOAPIC sends from now on, masked or not; `None` if it sends
    /// none. For engines that must know beforehand which ends of interrupts
    /// [`Platform::end_of_interrupt`](crate::Platform::end_of_interrupt) is to hear of.
    fn set_level_route(&self, _pin: u8, _message: Option<Msi>) {}
}

/// The processor end of the 8259's INTR line. Any thread may call it; it does not block.
pub trait ExtIntTarget: Send + Sync {
    /// Says whether INTR is asserted. The vCPU answers with
    /// [`Platform::acknowledge_extint`](crate::Platform::acknowledge_extint).
    fn set_extint(&self, asserted: bool);
}
