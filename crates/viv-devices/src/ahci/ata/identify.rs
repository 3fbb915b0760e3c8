//! What IDENTIFY DEVICE says (ACS-3, 7.12.7).

use super::AtaDisk;
use super::regs::{MAX_MULTIPLE, MAX_TRIM_BLOCKS, QUEUE_DEPTH};
use crate::ahci::drive::{identify_data, identify_text};

const MODEL: &str = "Vivarium disk";
const FIRMWARE: &str = "1.0";
/// The sectors that 28 bits can address.
const MAX_LBA28: u64 = 0x0fff_ffff;
/// Multiword DMA modes 0 to 2 and Ultra DMA modes 0 to 5; the one in use is 8 bits further up.
const MULTIWORD_MODES: u16 = 0x07;
const ULTRA_MODES: u16 = 0x3f;

/// A fixed disk.
const GENERAL: u16 = 1 << 6;
/// Word 49: standby timer, IORDY, LBA, DMA.
const CAPABILITIES: u16 = (1 << 13) | (1 << 11) | (1 << 10) | (1 << 9) | (1 << 8);
/// Word 76: queued commands, all three generations of links.
const SATA_CAPABILITIES: u16 = (1 << 8) | (1 << 3) | (1 << 2) | (1 << 1);
/// Word 80: ATA/ATAPI-4 to ACS-3.
const MAJOR_VERSIONS: u16 = 0x07f0;
/// In words whose top bits say that they are valid.
const VALID: u16 = 1 << 14;
/// Words 82 and 85: look-ahead, write cache, power management.
const LOOK_AHEAD: u16 = 1 << 6;
const WRITE_CACHE: u16 = 1 << 5;
const POWER_MANAGEMENT: u16 = 1 << 3;
/// Words 83 and 86: both flushes, 48-bit addresses.
const COMMANDS: u16 = (1 << 13) | (1 << 12) | (1 << 10);
/// Words 84 and 87: writes with FUA, logs.
const EXTENSIONS: u16 = (1 << 6) | (1 << 5);
/// Word 217: nothing rotates.
const SOLID_STATE: u16 = 1;

impl AtaDisk {
    /// The 512 bytes.
    pub(super) fn identify(&self) -> [u8; 512] {
        let cylinders = u16::try_from((self.sectors / (16 * 63)).min(16383)).unwrap_or(u16::MAX);
        let chs = u64::from(cylinders).saturating_mul(16 * 63);
        let lba28 = self.sectors.min(MAX_LBA28);
        let on = |set: bool, bits: u16| if set { bits } else { 0 };
        let mode = |kind: u8| on(self.transfer_mode & !7 == kind, 0x100_u16 << (self.transfer_mode & 7));
        let multiple = u16::from(self.multiple);
        let half = |value: u64, index: u32| value.checked_shr(index.saturating_mul(16)).unwrap_or(0) as u16;
        let mut words = vec![
            (0, GENERAL),
            (1, cylinders),
            (3, 16),
            (6, 63),
            (47, 0x8000 | u16::from(MAX_MULTIPLE)),
            (49, CAPABILITIES),
            (50, VALID),
            (53, 0b111),
            (54, cylinders),
            (55, 16),
            (56, 63),
            (57, half(chs, 0)),
            (58, half(chs, 1)),
            (59, on(multiple > 0, 0x100) | multiple),
            (60, half(lba28, 0)),
            (61, half(lba28, 1)),
            (63, MULTIWORD_MODES | mode(0x20)),
            (64, 0b11),
            (65, 120),
            (66, 120),
            (67, 120),
            (68, 120),
            (75, QUEUE_DEPTH - 1),
            (76, SATA_CAPABILITIES),
            (80, MAJOR_VERSIONS),
            (82, LOOK_AHEAD | WRITE_CACHE | POWER_MANAGEMENT),
            (83, VALID | COMMANDS),
            (84, VALID | EXTENSIONS),
            (85, on(self.look_ahead, LOOK_AHEAD) | on(self.write_cache, WRITE_CACHE) | POWER_MANAGEMENT),
            (86, COMMANDS),
            (87, VALID | EXTENSIONS),
            (88, ULTRA_MODES | mode(0x40)),
            (106, VALID),
            (217, SOLID_STATE),
        ];
        words.extend(
            (0..4).map(|index| (100_usize.saturating_add(index as usize), half(self.sectors, index))),
        );
        if !self.disk.read_only() {
            words.extend([(105, MAX_TRIM_BLOCKS), (169, 1)]);
        }
        words.extend((10..).zip(identify_text::<10>(&self.serial)));
        words.extend((23..).zip(identify_text::<4>(FIRMWARE)));
        words.extend((27..).zip(identify_text::<20>(MODEL)));
        identify_data(words)
    }
}
