//! What is at a port.

use serde::{Deserialize, Serialize};

use super::ata::{AtaDisk, AtaDiskState};
use super::atapi::{Cdrom, CdromState};
use super::fis::{Answer, TaskFile};
use super::regs::status;
use super::transfer::{Command, MemoryFault, Transfer};

/// How a command's end is told to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// By a D2H register FIS: commands without data, and those whose data go by DMA.
    Plain,
    /// Data to the host by PIO: the PIO setup FIS tells the end.
    PioIn,
    /// Data to the device by PIO.
    PioOut,
    /// A queued command, by its tag.
    Queued(u8),
    /// A packet, with data to the host by PIO.
    PacketPioIn,
}

/// What became of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) protocol: Protocol,
    pub(super) answer: Answer,
}

/// A drive: a disk or a CD-ROM drive.
pub enum Drive {
    /// A disk.
    Disk(AtaDisk),
    /// A CD-ROM drive.
    Cdrom(Cdrom),
}

/// A saved [`Drive`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum DriveState {
    Disk(AtaDiskState),
    Cdrom(CdromState),
}

impl Drive {
    /// What it says of itself when it was reset (ACS-3, 6.1 and table 206).
    pub(super) fn signature(&self) -> Answer {
        match self {
            Self::Disk(_) => AtaDisk::SIGNATURE,
            Self::Cdrom(_) => Cdrom::SIGNATURE,
        }
    }

    /// Carries out what the registers and the packet ask for.
    pub(super) fn execute(
        &mut self,
        task_file: &TaskFile,
        command: &Command,
        transfer: &mut Transfer<'_>,
    ) -> Result<Reply, MemoryFault> {
        match self {
            Self::Disk(disk) => disk.execute(task_file, transfer),
            Self::Cdrom(cdrom) => cdrom.execute(task_file, command.packet.as_ref(), transfer),
        }
    }

    /// Puts it in the state after a reset by the link or by software.
    pub(super) fn reset(&mut self) {
        match self {
            Self::Disk(disk) => disk.reset(),
            Self::Cdrom(cdrom) => cdrom.reset(),
        }
    }

    /// Makes what the guest wrote outlive a crash of the host.
    pub(super) fn flush(&mut self) -> Result<(), viv_disk::DiskError> {
        match self {
            Self::Disk(disk) => disk.flush(),
            Self::Cdrom(_) => Ok(()),
        }
    }

    pub(super) fn save(&self) -> DriveState {
        match self {
            Self::Disk(disk) => DriveState::Disk(disk.save()),
            Self::Cdrom(cdrom) => DriveState::Cdrom(cdrom.save()),
        }
    }

    /// Takes over a saved state; an error says why it cannot be this drive's.
    pub(super) fn restore(&mut self, state: &DriveState) -> Result<(), String> {
        match (self, state) {
            (Self::Disk(disk), DriveState::Disk(state)) => disk.restore(state),
            (Self::Cdrom(cdrom), DriveState::Cdrom(state)) => cdrom.restore(state),
            _ => Err("it has a disk where this one has a CD-ROM drive, or the other way round".to_owned()),
        }
    }
}

/// The error register (ACS-3, 6.3).
pub(super) mod error {
    /// The command was not carried out.
    pub const ABORTED: u8 = 1 << 2;
    /// The address is not on the disk.
    pub const ID_NOT_FOUND: u8 = 1 << 4;
    /// The data cannot be read.
    pub const UNCORRECTABLE: u8 = 1 << 6;
}

/// The answer to a command that is not known or not possible.
pub(super) const ABORTED: Answer =
    Answer { status: status::IDLE | status::ERROR, error: error::ABORTED, lba: 0, device: 0, count: 0 };

/// `text` as IDENTIFY has it: padded with spaces, bytes swapped in each word.
pub(super) fn identify_text<const WORDS: usize>(text: &str) -> [u16; WORDS] {
    let mut bytes = text.bytes().map(|byte| if byte.is_ascii_graphic() { byte } else { b' ' });
    std::array::from_fn(|_| {
        let (first, second) = (bytes.next().unwrap_or(b' '), bytes.next().unwrap_or(b' '));
        u16::from_be_bytes([first, second])
    })
}

/// The 512 bytes of IDENTIFY, from words by their number, with the integrity word (ACS-3, 7.12.7.96).
pub(super) fn identify_data(words: impl IntoIterator<Item = (usize, u16)>) -> [u8; 512] {
    let mut data = [0; 512];
    for (word, value) in words {
        if let Some(place) = data.as_chunks_mut().0.get_mut(word) {
            *place = value.to_le_bytes();
        }
    }
    let [front @ .., signature, checksum] = &mut data;
    *signature = 0xa5;
    *checksum = front.iter().fold(*signature, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg();
    data
}
