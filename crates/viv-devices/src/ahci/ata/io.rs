//! Reading, writing and trimming a disk, and the log of what went wrong.

use serde::{Deserialize, Serialize};
use viv_disk::{DiskError, SECTOR};

use super::regs::{self, log};
use super::{AtaDisk, Failure};
use crate::ahci::fis::{Answer, TaskFile};
use crate::ahci::transfer::Transfer;

/// Bytes of a range to trim: 48 bits of sector, 16 of their number.
const TRIM_RANGE: usize = 8;

/// A run of sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sectors {
    first: u64,
    count: u64,
}

impl Sectors {
    /// Of a command with 28-bit addresses. Addresses by cylinder and head are not understood.
    pub(super) fn of_28_bits(task_file: &TaskFile) -> Result<Self, Failure> {
        let high = u64::from(task_file.device & 0xf) << 24;
        let [count, _] = task_file.count.to_le_bytes();
        Self::new(task_file, (task_file.lba & 0xff_ffff) | high, count.into(), 0x100)
    }

    /// Of a command with 48-bit addresses.
    pub(super) fn of_48_bits(task_file: &TaskFile) -> Result<Self, Failure> {
        Self::new(task_file, task_file.lba, task_file.count.into(), 0x1_0000)
    }

    /// Of a queued command, which has its tag where others have their count.
    pub(super) fn of_queued(task_file: &TaskFile) -> Result<Self, Failure> {
        Self::new(task_file, task_file.lba, task_file.features.into(), 0x1_0000)
    }

    /// `count` sectors, or `most` where it is 0.
    fn new(task_file: &TaskFile, first: u64, count: u64, most: u64) -> Result<Self, Failure> {
        if task_file.device & regs::DEVICE_LBA == 0 {
            return Err(Failure::Aborted);
        }
        Ok(Self { first, count: if count == 0 { most } else { count } })
    }
}

/// The tag of a queued command.
pub(super) fn tag(task_file: &TaskFile) -> u8 {
    let [count, _] = task_file.count.to_le_bytes();
    count >> 3
}

/// The queued command that failed (ACS-3, A.14).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FailedQueued {
    tag: u8,
    answer: Answer,
}

impl FailedQueued {
    pub(super) fn new(tag: u8, answer: Answer) -> Self {
        Self { tag, answer }
    }

    /// The log's page.
    fn page(self) -> [u8; SECTOR as usize] {
        page(&self.answer.registers([self.tag, 0], self.answer.status))
    }
}

/// A page of a log that begins with `fields` and ends with a checksum.
fn page(fields: &[u8]) -> [u8; SECTOR as usize] {
    let mut page = [0; SECTOR as usize];
    for (byte, field) in page.iter_mut().zip(fields) {
        *byte = *field;
    }
    let sum = fields.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    if let Some(checksum) = page.last_mut() {
        *checksum = sum.wrapping_neg();
    }
    page
}

impl AtaDisk {
    /// Where sectors are on the disk: an offset and a length in bytes.
    pub(super) fn locate(&self, sectors: Sectors) -> Result<(u64, u64), Failure> {
        let end = sectors.first.saturating_add(sectors.count);
        if end > self.sectors {
            return Err(Failure::OutOfRange);
        }
        Ok((sectors.first.saturating_mul(SECTOR), sectors.count.saturating_mul(SECTOR)))
    }

    pub(super) fn read(&mut self, sectors: Sectors, transfer: &mut Transfer<'_>) -> Result<(), Failure> {
        let (mut at, mut left) = self.locate(sectors)?;
        while left > 0 {
            let part = first(&mut self.buffer, left);
            self.disk.read_at(at, part).map_err(|error| {
                warn(&error);
                Failure::Unreadable(at / SECTOR)
            })?;
            if transfer.put(part)? < part.len() {
                return Ok(());
            }
            let length = part.len() as u64;
            (at, left) = (at.saturating_add(length), left.saturating_sub(length));
        }
        Ok(())
    }

    /// Writes sectors; `durable` ones outlive a crash of the host when the command is done.
    pub(super) fn write(
        &mut self,
        sectors: Sectors,
        durable: bool,
        transfer: &mut Transfer<'_>,
    ) -> Result<(), Failure> {
        let (mut at, mut left) = self.locate(sectors)?;
        self.check_writable()?;
        while left > 0 {
            let part = first(&mut self.buffer, left);
            if transfer.get(part)? < part.len() {
                return Err(Failure::Aborted);
            }
            self.disk.write_at(at, part).map_err(|error| unwritable(&error))?;
            let length = part.len() as u64;
            (at, left) = (at.saturating_add(length), left.saturating_sub(length));
        }
        if durable || !self.write_cache { self.flush_cache() } else { Ok(()) }
    }

    pub(super) fn flush_cache(&mut self) -> Result<(), Failure> {
        self.disk.flush().map_err(|error| unwritable(&error))
    }

    /// DATA SET MANAGEMENT, of which there is TRIM. All ranges are checked before any is acted upon.
    pub(super) fn trim(&mut self, task_file: &TaskFile, transfer: &mut Transfer<'_>) -> Result<(), Failure> {
        self.check_writable()?;
        let blocks = task_file.count;
        if task_file.features != regs::TRIM || blocks == 0 || blocks > regs::MAX_TRIM_BLOCKS {
            return Err(Failure::Aborted);
        }
        let mut list = vec![0; usize::from(blocks).saturating_mul(SECTOR as usize)];
        if transfer.get(&mut list)? < list.len() {
            return Err(Failure::Aborted);
        }
        let ranges = list.as_chunks::<TRIM_RANGE>().0.iter().map(|bytes| {
            let range = u64::from_le_bytes(*bytes);
            Sectors { first: range & 0xffff_ffff_ffff, count: range >> 48 }
        });
        let ranges: Vec<_> = ranges.filter(|range| range.count > 0).map(|range| self.locate(range)).collect();
        for range in ranges.into_iter().collect::<Result<Vec<_>, _>>()? {
            self.disk.discard(range.0, range.1).map_err(|error| unwritable(&error))?;
        }
        Ok(())
    }

    /// READ LOG EXT, one page.
    pub(super) fn read_log(
        &mut self,
        task_file: &TaskFile,
        transfer: &mut Transfer<'_>,
    ) -> Result<(), Failure> {
        let [address, page_low, _, _, page_high, ..] = task_file.lba.to_le_bytes();
        if (page_low, page_high, task_file.count) != (0, 0, 1) {
            return Err(Failure::Aborted);
        }
        let content = match address {
            log::DIRECTORY => {
                let mut directory = [0; SECTOR as usize];
                let pages = |log: u8| if log == log::QUEUED_ERROR { 1 } else { 0_u16 };
                // The first word is the directory's version, the others count the pages of each log.
                let words = std::iter::once(1).chain((1..=u8::MAX).map(pages));
                for (place, word) in directory.as_chunks_mut().0.iter_mut().zip(words) {
                    *place = word.to_le_bytes();
                }
                directory
            }
            // With no failed command, the page says so by the bit for "not queued".
            log::QUEUED_ERROR => self.failed.take().map_or_else(|| page(&[0x80]), FailedQueued::page),
            _ => return Err(Failure::Aborted),
        };
        transfer.put(&content)?;
        Ok(())
    }

    fn check_writable(&self) -> Result<(), Failure> {
        if self.disk.read_only() { Err(Failure::Unwritable) } else { Ok(()) }
    }
}

/// The part of `buffer` for what is left of a command.
fn first(buffer: &mut [u8], left: u64) -> &mut [u8] {
    let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
    buffer.get_mut(..length).unwrap_or_default()
}

fn unwritable(error: &DiskError) -> Failure {
    warn(error);
    Failure::Unwritable
}

fn warn(error: &DiskError) {
    tracing::warn!(error = error as &dyn std::error::Error, "disk command failed");
}
