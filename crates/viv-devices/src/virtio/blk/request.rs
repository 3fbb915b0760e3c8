//! What a request asks, and how it is carried out.

use viv_disk::{Disk, DiskError, SECTOR};

use super::SERIAL;
use super::regs::{self, request, status};
use crate::virtio::chain::{Buffers, Chain};
use crate::virtio::queue::{Outcome, RingError};

/// How much is moved between disk and guest at a time.
const BUFFER: usize = 256 << 10;

/// A disk and what is needed to serve it.
pub(super) struct Requests {
    disk: Box<dyn Disk>,
    size: u64,
    read_only: bool,
    serial: [u8; SERIAL],
    write_through: bool,
    buffer: Vec<u8>,
}

/// Why a request fails.
enum Failure {
    /// The driver gets to know by the status byte.
    Request(u8),
    /// The disk failed, and the driver gets IOERR.
    Disk(DiskError),
    /// The guest's memory failed.
    Ring(RingError),
}

impl From<RingError> for Failure {
    fn from(error: RingError) -> Self {
        Self::Ring(error)
    }
}

impl From<DiskError> for Failure {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}

const IOERR: Failure = Failure::Request(status::IOERR);
const UNSUPP: Failure = Failure::Request(status::UNSUPP);

impl Requests {
    pub(super) fn new(disk: Box<dyn Disk>, serial: [u8; SERIAL]) -> Self {
        let (size, read_only) = (disk.size(), disk.read_only());
        Self { disk, size, read_only, serial, write_through: true, buffer: vec![0; BUFFER] }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn read_only(&self) -> bool {
        self.read_only
    }

    pub(super) fn disk(&mut self) -> &mut dyn Disk {
        &mut *self.disk
    }

    pub(super) fn set_write_through(&mut self, write_through: bool) {
        self.write_through = write_through;
    }

    /// Carries out one request and writes its status byte, the last that can be written.
    pub(super) fn carry_out(&mut self, chain: &mut Chain) -> Result<Outcome, RingError> {
        let Some(room) = chain.writable.remaining().checked_sub(1) else {
            return Err(RingError::Chain { head: chain.head, reason: "has no room for a status" });
        };
        let mut status_byte = chain.writable.split_off(room);
        let status = match self.perform(chain) {
            Ok(()) => status::OK,
            Err(Failure::Request(status)) => status,
            Err(Failure::Disk(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "disk request failed");
                status::IOERR
            }
            Err(Failure::Ring(error)) => return Err(error),
        };
        status_byte.write(&[status])?;
        let written = room.saturating_sub(chain.writable.remaining()).saturating_add(1);
        Ok(Outcome::Done(u32::try_from(written).unwrap_or(u32::MAX)))
    }

    fn perform(&mut self, chain: &mut Chain) -> Result<(), Failure> {
        let mut header = [0; regs::HEADER];
        if chain.readable.read(&mut header)? != header.len() {
            return Err(IOERR);
        }
        let kind = u32_at(&header, 0);
        let sector = u64_at(&header, 8);
        match kind {
            request::IN => self.read(sector, &mut chain.writable),
            request::OUT => self.write(sector, &mut chain.readable),
            request::FLUSH => Ok(self.disk.flush()?),
            request::GET_ID => {
                chain.writable.write(&self.serial)?;
                Ok(())
            }
            request::DISCARD => self.discard(&mut chain.readable),
            request::WRITE_ZEROES => self.write_zeroes(&mut chain.readable),
            _ => Err(UNSUPP),
        }
    }

    /// Where `length` bytes from `sector` begin, if they lie on the disk.
    fn locate(&self, sector: u64, length: u64) -> Result<u64, Failure> {
        let start = sector.checked_mul(SECTOR).ok_or(IOERR)?;
        let end = start.checked_add(length).ok_or(IOERR)?;
        if end <= self.size { Ok(start) } else { Err(IOERR) }
    }

    /// Where the data of a read or write lies, if its amount is right.
    fn locate_data(&self, sector: u64, length: u64) -> Result<u64, Failure> {
        if !length.is_multiple_of(SECTOR) || length > regs::MAX_DATA {
            return Err(IOERR);
        }
        self.locate(sector, length)
    }

    fn read(&mut self, sector: u64, to: &mut Buffers) -> Result<(), Failure> {
        let mut at = self.locate_data(sector, to.remaining())?;
        while let left @ 1.. = to.remaining() {
            let part = first(&mut self.buffer, left);
            self.disk.read_at(at, part)?;
            at = at.saturating_add(to.write(part)? as u64);
        }
        Ok(())
    }

    fn write(&mut self, sector: u64, from: &mut Buffers) -> Result<(), Failure> {
        let mut at = self.locate_data(sector, from.remaining())?;
        self.check_writable()?;
        while let left @ 1.. = from.remaining() {
            let part = first(&mut self.buffer, left);
            from.read(part)?;
            self.disk.write_at(at, part)?;
            at = at.saturating_add(part.len() as u64);
        }
        if self.write_through { Ok(self.disk.flush()?) } else { Ok(()) }
    }

    fn discard(&mut self, from: &mut Buffers) -> Result<(), Failure> {
        for range in self.ranges(from, regs::MAX_DISCARD_RANGES, regs::MAX_DISCARD, 0)? {
            self.disk.discard(range.start, range.length)?;
        }
        Ok(())
    }

    fn write_zeroes(&mut self, from: &mut Buffers) -> Result<(), Failure> {
        let ranges = self.ranges(from, regs::MAX_WRITE_ZEROES_RANGES, regs::MAX_WRITE_ZEROES, regs::UNMAP)?;
        for range in ranges {
            self.disk.write_zeroes(range.start, range.length, range.flags & regs::UNMAP != 0)?;
        }
        if self.write_through { Ok(self.disk.flush()?) } else { Ok(()) }
    }

    /// Reads the ranges of a request to discard or zero, at most `count` of at most `sectors`, with no flags
    /// but `flags`. All are checked before any is acted upon.
    fn ranges(
        &self,
        from: &mut Buffers,
        count: u32,
        sectors: u32,
        flags: u32,
    ) -> Result<Vec<Range>, Failure> {
        self.check_writable()?;
        let length = from.remaining();
        let most = u64::from(count).saturating_mul(regs::RANGE as u64);
        if length == 0 || length > most || !length.is_multiple_of(regs::RANGE as u64) {
            return Err(IOERR);
        }
        let mut ranges = Vec::new();
        let mut bytes = [0; regs::RANGE];
        while from.read(&mut bytes)? == bytes.len() {
            let range_sectors = u32_at(&bytes, 8);
            let range_flags = u32_at(&bytes, 12);
            if range_flags & !flags != 0 {
                return Err(UNSUPP);
            }
            if range_sectors > sectors {
                return Err(IOERR);
            }
            let length = u64::from(range_sectors).saturating_mul(SECTOR);
            let start = self.locate(u64_at(&bytes, 0), length)?;
            ranges.push(Range { start, length, flags: range_flags });
        }
        Ok(ranges)
    }

    fn check_writable(&self) -> Result<(), Failure> {
        if self.read_only { Err(IOERR) } else { Ok(()) }
    }
}

/// Bytes of the disk to discard or zero.
struct Range {
    start: u64,
    length: u64,
    flags: u32,
}

/// The part of `buffer` for what is left of a request.
fn first(buffer: &mut [u8], left: u64) -> &mut [u8] {
    let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
    buffer.get_mut(..length).unwrap_or_default()
}

fn u32_at<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

fn u64_at<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u64::from_le_bytes(*chunk))
}
