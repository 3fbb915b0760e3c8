//! A CD-ROM drive (MMC-6) that takes packets (ACS-3, 7.18), with a medium of 2048-byte blocks or none.

mod identify;
mod packet;
mod regs;
mod tables;

use serde::{Deserialize, Serialize};
use viv_disk::Disk;

use super::drive::{ABORTED, Protocol, Reply};
use super::fis::{Answer, TaskFile};
use super::regs::status;
use super::transfer::{MemoryFault, Packet, Transfer};
use packet::Data;
use regs::{Sense, command};

/// Bytes of a block.
const BLOCK: u64 = 2048;
/// How much is moved from the medium to the guest at a time.
const BUFFER: usize = 256 << 10;
const VENDOR: &str = "Vivarium";
const PRODUCT: &str = "CD-ROM";
const MODEL: &str = "Vivarium CD-ROM";
const REVISION: &str = "1.0";

/// What has happened to the medium and was not told yet (MMC-6, 6.7.2.5).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
enum MediaEvent {
    #[default]
    None,
    New,
    Removed,
}

/// A SATA CD-ROM drive.
pub struct Cdrom {
    medium: Option<Box<dyn Disk>>,
    serial: String,
    tray: Tray,
    buffer: Vec<u8>,
}

/// What commands change; what is saved of the drive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Tray {
    open: bool,
    /// The guest prevents removal.
    locked: bool,
    /// Why the last packet failed.
    sense: Sense,
    /// The guest must hear that the medium changed before it gets at it.
    changed: bool,
    event: MediaEvent,
}

/// A saved [`Cdrom`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct CdromState {
    /// Blocks of the medium, 0 if there is none.
    blocks: u64,
    tray: Tray,
}

/// Why a packet fails.
enum Failure {
    /// The guest gets to know by the sense.
    Check(Sense),
    /// Its data lie outside guest RAM.
    Memory,
}

impl From<Sense> for Failure {
    fn from(sense: Sense) -> Self {
        Self::Check(sense)
    }
}

impl From<MemoryFault> for Failure {
    fn from(MemoryFault: MemoryFault) -> Self {
        Self::Memory
    }
}

impl Cdrom {
    pub(super) const SIGNATURE: Answer = Answer { status: 0, error: 1, lba: 0xeb_1401, device: 0, count: 1 };

    /// A drive with `medium` in it, which is only read, or empty. The guest sees the first 20 characters of `serial`.
    #[must_use]
    pub fn new(medium: Option<Box<dyn Disk>>, serial: &str) -> Self {
        Self { medium, serial: serial.to_owned(), tray: Tray::default(), buffer: vec![0; BUFFER] }
    }

    /// A tray that the guest has opened stays open, so that an installer that ejects its medium and starts the machine
    /// anew is not met again.
    pub(super) fn reset(&mut self) {
        self.tray = Tray { open: self.tray.open, ..Tray::default() };
    }

    pub(super) fn save(&self) -> CdromState {
        CdromState { blocks: self.medium.as_deref().map_or(0, blocks), tray: self.tray }
    }

    pub(super) fn restore(&mut self, state: &CdromState) -> Result<(), String> {
        let now = self.medium.as_deref().map_or(0, blocks);
        if state.blocks != now {
            return Err(format!("its medium had {} blocks and has {now}", state.blocks));
        }
        self.tray = state.tray;
        Ok(())
    }

    /// Carries out a command.
    pub(super) fn execute(
        &mut self,
        task_file: &TaskFile,
        packet: Option<&Packet>,
        transfer: &mut Transfer<'_>,
    ) -> Result<Reply, MemoryFault> {
        let ready = Answer { status: status::IDLE, ..Answer::default() };
        let plain = |answer| Reply { protocol: Protocol::Plain, answer };
        Ok(match task_file.command {
            command::PACKET => match packet {
                Some(packet) => return self.take_packet(task_file, packet, transfer),
                None => plain(ABORTED),
            },
            command::IDENTIFY_PACKET => {
                transfer.put(&self.identify())?;
                Reply { protocol: Protocol::PioIn, answer: ready }
            }
            command::DEVICE_RESET | command::EXECUTE_DIAGNOSTIC => plain(Self::SIGNATURE),
            command::CHECK_POWER_MODE => plain(Answer { count: regs::POWER_ACTIVE, ..ready }),
            command::STANDBY_IMMEDIATE | command::IDLE_IMMEDIATE | command::SLEEP => plain(ready),
            command::SET_FEATURES if task_file.features.to_le_bytes()[0] == regs::SET_TRANSFER_MODE => {
                plain(ready)
            }
            // So a driver that asks as of a disk sees what is there (ACS-3, 7.12.3).
            _ => plain(Answer { lba: Self::SIGNATURE.lba, count: Self::SIGNATURE.count, ..ABORTED }),
        })
    }

    fn take_packet(
        &mut self,
        task_file: &TaskFile,
        packet: &Packet,
        transfer: &mut Transfer<'_>,
    ) -> Result<Reply, MemoryFault> {
        let is_dma = task_file.features & regs::PACKET_DMA != 0;
        let protocol = if is_dma { Protocol::Plain } else { Protocol::PacketPioIn };
        let result = match self.perform(packet) {
            Ok(data) => self.give(data, transfer),
            Err(sense) => Err(Failure::Check(sense)),
        };
        // The bytes of the last block of data go where others have the middle of their address.
        let moved = u64::from(u16::try_from(transfer.result().bytes).unwrap_or(0xfffe)) << 8;
        let done = Answer { status: status::IDLE, lba: moved, count: regs::REASON_DONE, ..Answer::default() };
        let answer = match result {
            Ok(()) => {
                self.tray.sense = Sense::NONE;
                done
            }
            Err(Failure::Check(sense)) => {
                self.tray.sense = sense;
                Answer { status: status::IDLE | status::ERROR, error: sense.key << 4, ..done }
            }
            Err(Failure::Memory) => return Err(MemoryFault),
        };
        Ok(Reply { protocol, answer })
    }

    /// Gives the guest what a packet asked for.
    fn give(&mut self, data: Data, transfer: &mut Transfer<'_>) -> Result<(), Failure> {
        match data {
            Data::Bytes(bytes) => {
                transfer.put(&bytes)?;
                Ok(())
            }
            Data::Blocks { first, count } => self.give_blocks(first, count, transfer),
        }
    }

    fn give_blocks(&mut self, first: u64, count: u64, transfer: &mut Transfer<'_>) -> Result<(), Failure> {
        let Some(medium) = &mut self.medium else { return Ok(()) };
        let size = medium.size();
        let mut at = first.saturating_mul(BLOCK);
        let mut left = count.saturating_mul(BLOCK);
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let part = self.buffer.get_mut(..length).unwrap_or_default();
            // A medium that ends within a block is continued by zeroes.
            let stored = usize::try_from(size.saturating_sub(at)).unwrap_or(usize::MAX).min(length);
            let (content, rest) = part.split_at_mut(stored);
            rest.fill(0);
            medium.read_at(at, content).map_err(|error| {
                tracing::warn!(error = &error as &dyn std::error::Error, "CD-ROM read failed");
                Sense::UNRECOVERED_READ
            })?;
            if transfer.put(part)? < length {
                return Ok(());
            }
            (at, left) = (at.saturating_add(length as u64), left.saturating_sub(length as u64));
        }
        Ok(())
    }
}

/// How many blocks a medium has.
fn blocks(medium: &dyn Disk) -> u64 {
    medium.size().div_ceil(BLOCK)
}
