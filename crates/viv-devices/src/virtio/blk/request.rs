//! What a request asks.

use viv_disk::SECTOR;
use viv_disk::aio::Operation;

use super::SERIAL;
use super::regs::{self, request, status};
use crate::virtio::chain::{Buffers, Chain};
use crate::virtio::queue::RingError;

/// What is known of the disk when requests are read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader {
    pub(super) size: u64,
    pub(super) read_only: bool,
    pub(super) serial: [u8; SERIAL],
    /// A change has to outlive a crash of the host once its request has ended.
    pub(super) durable: bool,
    /// What was written need not outlive a crash at all.
    pub(super) flushes_nothing: bool,
}

/// A request that was read.
#[derive(Debug)]
pub(super) struct Asked {
    /// Where its status byte goes.
    pub(super) status: Buffers,
    /// The bytes that can be written before that.
    pub(super) room: u64,
    pub(super) work: Work,
}

/// What there is to do for a request.
#[derive(Debug)]
pub(super) enum Work {
    /// Nothing more than to give this status, with so many bytes written before it.
    Answer(u8, u64),
    /// Fill or take what the chain has left for data.
    Transfer { operation: Operation, offset: u64, length: u64, data: Buffers },
    /// Do this with each of the ranges, of which there is at least one: where it begins, and its length.
    Ranges(Vec<(Operation, u64, u64)>),
}

impl Work {
    /// How many requests to the disk it takes.
    pub(super) fn parts(&self) -> usize {
        match self {
            Self::Answer(..) => 0,
            Self::Transfer { .. } => 1,
            Self::Ranges(ranges) => ranges.len(),
        }
    }

    /// Whether it only makes durable what others did.
    pub(super) fn is_flush(&self) -> bool {
        matches!(self, Self::Ranges(ranges) if matches!(ranges.as_slice(), [(Operation::Flush, ..)]))
    }
}

/// Why a request is not carried out.
enum Refusal {
    /// The driver gets to know by the status byte.
    Status(u8),
    /// The guest's memory failed.
    Ring(RingError),
}

impl From<RingError> for Refusal {
    fn from(error: RingError) -> Self {
        Self::Ring(error)
    }
}

const IOERR: Refusal = Refusal::Status(status::IOERR);
const UNSUPP: Refusal = Refusal::Status(status::UNSUPP);

impl Reader {
    /// Reads what a request asks. Its status byte is the last that can be written.
    pub(super) fn read(&self, chain: &mut Chain) -> Result<Asked, RingError> {
        let Some(room) = chain.writable.remaining().checked_sub(1) else {
            return Err(RingError::Chain { head: chain.head, reason: "has no room for a status" });
        };
        let status = chain.writable.split_off(room);
        let work = match self.work(chain) {
            Ok(work) => work,
            Err(Refusal::Status(status)) => Work::Answer(status, 0),
            Err(Refusal::Ring(error)) => return Err(error),
        };
        Ok(Asked { status, room, work })
    }

    fn work(&self, chain: &mut Chain) -> Result<Work, Refusal> {
        let mut header = [0; regs::HEADER];
        if chain.readable.read(&mut header)? != header.len() {
            return Err(IOERR);
        }
        let kind = u32_at(&header, 0);
        let sector = u64_at(&header, 8);
        match kind {
            request::IN => self.transfer(Operation::Read, sector, chain.writable.take()),
            request::OUT => {
                let data = chain.readable.take();
                let operation = Operation::Write { durable: self.durable };
                self.check_writable().and_then(|()| self.transfer(operation, sector, data))
            }
            request::FLUSH if self.flushes_nothing => Ok(Work::Answer(status::OK, 0)),
            request::FLUSH => Ok(Work::Ranges(vec![(Operation::Flush, 0, 0)])),
            request::GET_ID => Ok(Work::Answer(status::OK, chain.writable.write(&self.serial)? as u64)),
            request::DISCARD => self.discard(&mut chain.readable),
            request::WRITE_ZEROES => self.write_zeroes(&mut chain.readable),
            _ => Err(UNSUPP),
        }
    }

    /// Where `length` bytes from `sector` begin, if they lie on the disk.
    fn locate(&self, sector: u64, length: u64) -> Result<u64, Refusal> {
        let start = sector.checked_mul(SECTOR).ok_or(IOERR)?;
        let end = start.checked_add(length).ok_or(IOERR)?;
        if end <= self.size { Ok(start) } else { Err(IOERR) }
    }

    fn transfer(&self, operation: Operation, sector: u64, data: Buffers) -> Result<Work, Refusal> {
        let length = data.remaining();
        if !length.is_multiple_of(SECTOR) || length > regs::MAX_DATA {
            return Err(IOERR);
        }
        let offset = self.locate(sector, length)?;
        Ok(Work::Transfer { operation, offset, length, data })
    }

    fn discard(&self, from: &mut Buffers) -> Result<Work, Refusal> {
        let ranges = self.ranges(from, regs::MAX_DISCARD_RANGES, regs::MAX_DISCARD, 0)?;
        Ok(Work::Ranges(
            ranges.into_iter().map(|range| (Operation::Discard, range.start, range.length)).collect(),
        ))
    }

    fn write_zeroes(&self, from: &mut Buffers) -> Result<Work, Refusal> {
        let ranges = self.ranges(from, regs::MAX_WRITE_ZEROES_RANGES, regs::MAX_WRITE_ZEROES, regs::UNMAP)?;
        let zero = |range: Range| {
            let may_unmap = range.flags & regs::UNMAP != 0;
            (Operation::WriteZeroes { may_unmap, durable: self.durable }, range.start, range.length)
        };
        Ok(Work::Ranges(ranges.into_iter().map(zero).collect()))
    }

    /// Reads the ranges of a request to discard or zero, at most `count` of at most `sectors`, with no flags
    /// but `flags`. All are checked before any is acted upon.
    fn ranges(
        &self,
        from: &mut Buffers,
        count: u32,
        sectors: u32,
        flags: u32,
    ) -> Result<Vec<Range>, Refusal> {
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

    fn check_writable(&self) -> Result<(), Refusal> {
        if self.read_only { Err(IOERR) } else { Ok(()) }
    }
}

/// Bytes of the disk to discard or zero.
struct Range {
    start: u64,
    length: u64,
    flags: u32,
}

fn u32_at<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

fn u64_at<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u64::from_le_bytes(*chunk))
}
