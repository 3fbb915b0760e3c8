//! Where the structures lie in BAR 0, and the capabilities that say so.

use super::Common;
use crate::pci::{Bar, BarKind, ConfigSpace, MsiX, regs::capability};

/// Bytes between the registers by which the driver rings for neighbouring queues.
pub(super) const NOTIFY_MULTIPLIER: u64 = 4;
const PAGE: u64 = 0x1000;
const BAR_SIZE: u64 = 0x8000;

/// What a page of BAR 0 holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Region {
    Common,
    Isr,
    Device,
    Notify,
    MsixTable,
    MsixPending,
}

impl Region {
    /// What is at `offset` in the BAR, and the offset in that.
    pub(super) fn at(offset: u64) -> Option<(Self, u64)> {
        let region = match offset / PAGE {
            0 => Self::Common,
            1 => Self::Isr,
            2 => Self::Device,
            3 => Self::Notify,
            4 => Self::MsixTable,
            5 => Self::MsixPending,
            _ => return None,
        };
        Some((region, offset % PAGE))
    }

    const fn start(self) -> u32 {
        match self {
            Self::Common => 0x0000,
            Self::Isr => 0x1000,
            Self::Device => 0x2000,
            Self::Notify => 0x3000,
            Self::MsixTable => 0x4000,
            Self::MsixPending => 0x5000,
        }
    }
}

/// Structure types (VIRTIO 1.3, 4.1.4).
mod cfg_type {
    pub const COMMON: u8 = 1;
    pub const NOTIFY: u8 = 2;
    pub const ISR: u8 = 3;
    pub const DEVICE: u8 = 4;
    pub const PCI: u8 = 5;
}

/// Offsets in `struct virtio_pci_cap` (4.1.4), and in those that extend it.
mod field {
    pub const BAR: u8 = 4;
    pub const OFFSET: u8 = 8;
    pub const LENGTH: u8 = 12;
    pub const END: u8 = 16;
}

/// Where the capabilities are that do more than be read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Capabilities {
    /// MSI-X's message control register.
    pub(super) msix_control: u8,
    /// The PCI configuration access capability.
    access: u8,
}

/// Adds BAR and capabilities. `None` if they do not fit.
pub(super) fn describe(config: &mut ConfigSpace, msix: &MsiX) -> Option<Capabilities> {
    if !config.add_bar(0, Bar { kind: BarKind::Memory32, size: BAR_SIZE }) {
        return None;
    }
    let page = PAGE as u32;
    config.add_capability(
        capability::VENDOR,
        &structure(cfg_type::COMMON, Region::Common.start(), Common::LENGTH as u32, &[]),
        &[],
    )?;
    config.add_capability(
        capability::VENDOR,
        &structure(cfg_type::NOTIFY, Region::Notify.start(), page, &(NOTIFY_MULTIPLIER as u32).to_le_bytes()),
        &[],
    )?;
    config.add_capability(capability::VENDOR, &structure(cfg_type::ISR, Region::Isr.start(), 1, &[]), &[])?;
    config.add_capability(
        capability::VENDOR,
        &structure(cfg_type::DEVICE, Region::Device.start(), page, &[]),
        &[],
    )?;
    // Its BAR, offset, length and data are the driver's to write.
    let mut writable = [0; 18];
    for field in [field::BAR].into_iter().chain(field::OFFSET..field::END.saturating_add(4)) {
        if let Some(byte) = writable.get_mut(usize::from(field.saturating_sub(2))) {
            *byte = 0xff;
        }
    }
    let access =
        config.add_capability(capability::VENDOR, &structure(cfg_type::PCI, 0, 0, &[0; 4]), &writable)?;
    let table = msix.capability(0, Region::MsixTable.start(), Region::MsixPending.start());
    let msix = config.add_capability(capability::MSIX, &table, &MsiX::WRITABLE)?;
    Some(Capabilities { msix_control: msix.checked_add(2)?, access })
}

/// The capability of a structure in BAR 0, after the two bytes that all capabilities begin with.
fn structure(cfg_type: u8, offset: u32, length: u32, extension: &[u8]) -> Vec<u8> {
    let total = usize::from(field::END).saturating_add(extension.len());
    let mut body = vec![u8::try_from(total).unwrap_or(u8::MAX), cfg_type, 0, 0, 0, 0];
    body.extend(offset.to_le_bytes());
    body.extend(length.to_le_bytes());
    body.extend(extension);
    body
}

impl Capabilities {
    /// Where the data of the PCI configuration access capability is, 4 bytes.
    pub(super) fn access_data(&self) -> u8 {
        self.access.saturating_add(field::END)
    }

    /// The access to BAR 0, as offset and length, that an access to configuration space stands for: one that
    /// touches the data register, while the capability names a place that can be accessed (4.1.4.9).
    pub(super) fn access(&self, config: &ConfigSpace, offset: u16, length: usize) -> Option<(u64, usize)> {
        let data = usize::from(self.access_data());
        let begin = usize::from(offset);
        if begin >= data.saturating_add(4) || begin.saturating_add(length) <= data {
            return None;
        }
        let register = |field: u8| config.u32_at(self.access.saturating_add(field));
        let (bar, offset, length) =
            (register(field::BAR) as u8, register(field::OFFSET), register(field::LENGTH));
        let fits = bar == 0
            && matches!(length, 1 | 2 | 4)
            && offset.is_multiple_of(length)
            && u64::from(offset) < BAR_SIZE;
        fits.then_some((u64::from(offset), length as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_where_they_say() {
        for region in [
            Region::Common,
            Region::Isr,
            Region::Device,
            Region::Notify,
            Region::MsixTable,
            Region::MsixPending,
        ] {
            assert_eq!(Region::at(u64::from(region.start()) + 8), Some((region, 8)));
        }
        assert_eq!(Region::at(0x6000), None);
    }
}
