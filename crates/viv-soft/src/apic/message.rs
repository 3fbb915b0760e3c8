//! Interrupt messages: what travels between APICs.

use viv_arch::apic::DeliveryMode;
use viv_engine::Msi;

/// An interrupt on its way to local APICs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub mode: DeliveryMode,
    /// Its vector, where the mode has one.
    pub vector: u8,
    /// Whether it is level-triggered.
    pub level: bool,
    /// Whom it is for.
    pub audience: Audience,
}

/// Whom a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// The APIC with this id, by a shorthand.
    Itself(u32),
    /// All but the one with this id.
    AllBut(u32),
    /// All.
    All,
    /// The one with this id.
    Physical(u32),
    /// Those with this logical destination: how it is read depends on the mode of each.
    Logical(u32),
}

/// Bits 31:20 of the address of an MSI.
const MSI_WINDOW: u64 = 0xfee;
/// Redirection hint of an MSI: to one of the destinations (SDM vol. 3, 11.11.1).
const MSI_REDIRECTION: u64 = 1 << 3;
/// The physical destination that all xAPICs answer to.
const XAPIC_BROADCAST: u32 = 0xff;
/// The destination that all x2APICs answer to, physical or logical.
const X2APIC_BROADCAST: u32 = u32::MAX;

const ICR_LOGICAL: u64 = 1 << 11;
const ICR_ASSERT: u64 = 1 << 14;
const ICR_LEVEL: u64 = 1 << 15;
const ICR_SHORTHAND: u32 = 18;

impl Message {
    /// The message that an MSI stands for; `None` if it is not within the APICs' window, or of a reserved mode.
    ///
    /// Physical destination 255 is everybody, so a machine with an APIC id of 255 cannot reach it by MSI.
    #[must_use]
    pub fn from_msi(msi: Msi) -> Option<Self> {
        if msi.address >> 20 != MSI_WINDOW {
            return None;
        }
        let destination = msi.destination();
        let audience = match (msi.is_logical(), destination) {
            (false, XAPIC_BROADCAST) => Audience::All,
            (false, _) => Audience::Physical(destination),
            (true, _) => Audience::Logical(destination),
        };
        let mode = match msi.delivery_mode()? {
            DeliveryMode::Fixed if msi.address & MSI_REDIRECTION != 0 => DeliveryMode::LowestPriority,
            mode => mode,
        };
        Some(Self { mode, vector: msi.vector(), level: msi.is_level(), audience })
    }

    /// The message that a write of the interrupt command register by APIC `source` stands for (SDM vol. 3, 11.6.1);
    /// `None` if it is of a mode that is reserved there, or an INIT level de-assert, which current processors
    /// ignore. They also send all interprocessor interrupts as edge-triggered.
    pub(super) fn from_icr(icr: u64, source: u32, x2apic: bool) -> Option<Self> {
        let mode = DeliveryMode::from_bits((icr >> 8) as u8)?;
        match mode {
            DeliveryMode::ExtInt => return None,
            DeliveryMode::Init if icr & ICR_LEVEL != 0 && icr & ICR_ASSERT == 0 => return None,
            _ => {}
        }
        let (destination, broadcast) = if x2apic {
            ((icr >> 32) as u32, X2APIC_BROADCAST)
        } else {
            ((icr >> 56) as u32, XAPIC_BROADCAST)
        };
        let audience = match (icr >> ICR_SHORTHAND) & 3 {
            1 => Audience::Itself(source),
            2 => Audience::All,
            3 => Audience::AllBut(source),
            _ if destination == broadcast => Audience::All,
            _ if icr & ICR_LOGICAL != 0 => Audience::Logical(destination),
            _ => Audience::Physical(destination),
        };
        Some(Self { mode, vector: icr as u8, level: false, audience })
    }
}
