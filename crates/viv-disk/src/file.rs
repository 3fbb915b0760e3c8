//! The file under a disk: opened, locked, read and written at offsets.

use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation, OFlags};
use rustix::io::Errno;

use crate::DiskError;

/// How much is zeroed in one write where the host has nothing better.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// An open file, with its path for messages.
#[derive(Debug)]
pub(crate) struct DiskFile {
    file: File,
    path: PathBuf,
    is_block_device: bool,
    /// Whether what is written has to outlive the process.
    durable: bool,
}

impl DiskFile {
    /// Opens and locks an existing file or block device.
    pub(crate) fn open(path: &Path, write: bool) -> Result<Self, DiskError> {
        Self::from_file(Self::open_file(path, write)?, path, write)
    }

    /// Opens one to look at what it is, whoever has it open.
    pub(crate) fn open_unlocked(path: &Path) -> Result<Self, DiskError> {
        Self::unlocked(Self::open_file(path, false)?, path)
    }

    fn open_file(path: &Path, write: bool) -> Result<File, DiskError> {
        // Non-blocking, because opening a FIFO would wait for its other end.
        OpenOptions::new()
            .read(true)
            .write(write)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(path)
            .map_err(DiskError::io("open", path))
    }

    fn unlocked(file: File, path: &Path) -> Result<Self, DiskError> {
        let kind = file.metadata().map_err(DiskError::io("examine", path))?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(DiskError::NotADisk { path: path.to_owned() });
        }
        let is_block_device = kind.is_block_device();
        Ok(Self { file, path: path.to_owned(), is_block_device, durable: true })
    }

    /// Takes over a file and locks it.
    pub(crate) fn from_file(file: File, path: &Path, write: bool) -> Result<Self, DiskError> {
        let file = Self::unlocked(file, path)?;
        let operation = if write {
            FlockOperation::NonBlockingLockExclusive
        } else {
            FlockOperation::NonBlockingLockShared
        };
        match rustix::fs::flock(&file.file, operation) {
            Ok(()) => Ok(file),
            Err(Errno::WOULDBLOCK) => Err(DiskError::InUse { path: path.to_owned(), write }),
            Err(errno) => Err(DiskError::io("lock", path)(errno)),
        }
    }

    /// One whose contents nobody needs once it is closed: it is never synced.
    pub(crate) fn fleeting(self) -> Self {
        Self { durable: false, ..self }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The length in bytes; a block device's capacity.
    pub(crate) fn length(&self) -> Result<u64, DiskError> {
        rustix::fs::seek(&self.file, rustix::fs::SeekFrom::End(0))
            .map_err(DiskError::io("find the size of", &self.path))
    }

    /// When a regular file's contents changed last: seconds and nanoseconds. A block device does not say.
    pub(crate) fn modified(&self) -> Result<Option<(i64, i64)>, DiskError> {
        if self.is_block_device {
            return Ok(None);
        }
        let metadata = self.file.metadata().map_err(DiskError::io("examine", &self.path))?;
        Ok(Some((metadata.mtime(), metadata.mtime_nsec())))
    }

    pub(crate) fn set_length(&self, length: u64) -> Result<(), DiskError> {
        self.file.set_len(length).map_err(DiskError::io("resize", &self.path))
    }

    /// The first range at or behind `offset` that the file does not know to be zeroes.
    pub(crate) fn data_from(&self, offset: u64) -> Result<Option<Range<u64>>, DiskError> {
        let fail = DiskError::io("look for data in", &self.path);
        let start = match rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(None),
            // Not every file knows.
            Err(Errno::INVAL) => return Ok(Some(offset..u64::MAX)),
            Err(errno) => return Err(fail(errno)),
        };
        let end = rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Hole(start)).map_err(fail)?;
        Ok(Some(start..end))
    }

    /// Another handle of the same open and locked file.
    pub(crate) fn try_clone(&self) -> Result<Self, DiskError> {
        let file = self.file.try_clone().map_err(DiskError::io("open", &self.path))?;
        Ok(Self { file, path: self.path.clone(), ..*self })
    }

    /// Fills `data` as far as the file reaches; how many bytes that were.
    pub(crate) fn read_some(&self, offset: u64, data: &mut [u8]) -> Result<usize, DiskError> {
        let mut have = 0_usize;
        while let Some(rest) = data.get_mut(have..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, offset.saturating_add(have as u64)) {
                Ok(0) => break,
                Ok(read) => have = have.saturating_add(read),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(DiskError::io("read", &self.path)(error)),
            }
        }
        Ok(have)
    }

    pub(crate) fn read_at(&self, offset: u64, data: &mut [u8]) -> Result<(), DiskError> {
        self.file.read_exact_at(data, offset).map_err(DiskError::io("read", &self.path))
    }

    pub(crate) fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.file.write_all_at(data, offset).map_err(DiskError::io("write", &self.path))
    }

    /// `fdatasync`.
    pub(crate) fn sync(&self) -> Result<(), DiskError> {
        if !self.durable {
            return Ok(());
        }
        rustix::fs::fdatasync(&self.file).map_err(DiskError::io("flush", &self.path))
    }

    /// Gives the space of a range back, if the host can.
    pub(crate) fn discard(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.allocate(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length).map(drop)
    }

    /// Makes a range read as zeroes.
    pub(crate) fn write_zeroes(&self, offset: u64, length: u64, may_unmap: bool) -> Result<(), DiskError> {
        let zero = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let done =
            (may_unmap && self.allocate(punch, offset, length)?) || self.allocate(zero, offset, length)?;
        if done { Ok(()) } else { self.write_zeroes_by_hand(offset, length) }
    }

    pub(crate) fn write_zeroes_by_hand(&self, mut offset: u64, mut length: u64) -> Result<(), DiskError> {
        while length > 0 {
            let take = ZEROES.len().min(usize::try_from(length).unwrap_or(usize::MAX));
            let zeroes = ZEROES.get(..take).unwrap_or_default();
            self.write_at(offset, zeroes)?;
            offset = offset.saturating_add(take as u64);
            length = length.saturating_sub(take as u64);
        }
        Ok(())
    }

    /// Whether the host could do it. A block device refuses ranges that do not fit its own blocks.
    fn allocate(&self, flags: FallocateFlags, offset: u64, length: u64) -> Result<bool, DiskError> {
        if length == 0 {
            return Ok(true);
        }
        loop {
            match rustix::fs::fallocate(&self.file, flags, offset, length) {
                Ok(()) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(false),
                Err(Errno::INVAL) if self.is_block_device => return Ok(false),
                Err(errno) => return Err(DiskError::io("free space in", &self.path)(errno)),
            }
        }
    }
}
