//! What IDENTIFY PACKET DEVICE says (ACS-3, 7.13.6).

use super::{Cdrom, MODEL, REVISION};
use crate::ahci::drive::{identify_data, identify_text};

/// A removable CD-ROM drive that takes packets of 12 bytes and asks for them at once.
const GENERAL: u16 = (1 << 15) | (5 << 8) | (1 << 7) | (0b10 << 5);
/// Word 49: IORDY, LBA, DMA.
const CAPABILITIES: u16 = (1 << 11) | (1 << 9) | (1 << 8);
/// Word 63: multiword DMA modes 0 to 2.
const MULTIWORD_MODES: u16 = 0x07;
/// Word 88: Ultra DMA modes 0 to 5, the last in use.
const ULTRA_MODES: u16 = 0x203f;
/// Word 76: all three generations of links.
const SATA_CAPABILITIES: u16 = (1 << 3) | (1 << 2) | (1 << 1);
/// Word 80: ATA/ATAPI-4 to ACS-3.
const MAJOR_VERSIONS: u16 = 0x07f0;
/// In words whose top bits say that they are valid.
const VALID: u16 = 1 << 14;
/// Words 82 and 85: the device takes packets, and knows DEVICE RESET.
const COMMANDS: u16 = (1 << 9) | (1 << 4);

impl Cdrom {
    /// The 512 bytes.
    pub(super) fn identify(&self) -> [u8; 512] {
        let words = [
            (0, GENERAL),
            (49, CAPABILITIES),
            (53, 0b110),
            (63, MULTIWORD_MODES),
            (64, 0b11),
            (65, 120),
            (66, 120),
            (67, 120),
            (68, 120),
            (76, SATA_CAPABILITIES),
            (80, MAJOR_VERSIONS),
            (82, COMMANDS),
            (83, VALID),
            (84, VALID),
            (85, COMMANDS),
            (87, VALID),
            (88, ULTRA_MODES),
        ];
        let serial = (10..).zip(identify_text::<10>(&self.serial));
        let revision = (23..).zip(identify_text::<4>(REVISION));
        let model = (27..).zip(identify_text::<20>(MODEL));
        identify_data(words.into_iter().chain(serial).chain(revision).chain(model))
    }
}
