//! The file under a disk: opened, locked, read and written at offsets.

use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use rustix::fs::{FallocateFlags, FlockOperation, OFlags};
use rustix::io::Errno;

use crate::DiskError;
use crate::direct::{Aligned, Alignment};

/// How much is zeroed in one write where the host has nothing better.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];
/// How much is moved at a time through memory of our own, a multiple of every alignment.
const PIECE: usize = 256 << 10;

/// An open file, with its path for messages.
#[derive(Debug)]
pub(crate) struct DiskFile {
    file: File,
    path: PathBuf,
    is_block_device: bool,
    /// Whether what is written has to outlive the process.
    durable: bool,
    /// What is asked of transfers, if they go past the host's cache.
    direct: Option<Alignment>,
    /// Held alone while blocks are read, changed in part and written back, shared by all other writes. Only for direct
    /// access: otherwise the host takes care of that.
    blocks: RwLock<()>,
}

impl DiskFile {
    /// Opens and locks an existing file or block device.
    pub(crate) fn open(path: &Path, write: bool) -> Result<Self, DiskError> {
        Self::from_file(Self::open_file(path, write, OFlags::empty())?, path, write)
    }

    /// Opens one to look at what it is, whoever has it open.
    pub(crate) fn open_unlocked(path: &Path) -> Result<Self, DiskError> {
        Self::unlocked(Self::open_file(path, false, OFlags::empty())?, path)
    }

    /// The same, past the host's cache.
    pub(crate) fn open_direct(path: &Path, write: bool) -> Result<Self, DiskError> {
        let mut opened = Self::from_file(Self::open_file(path, write, OFlags::DIRECT)?, path, write)?;
        let action = "find out about direct access (cache=none) to";
        let alignment = Alignment::of(&opened.file).map_err(DiskError::io(action, path))?;
        let length = opened.length()?;
        if !length.is_multiple_of(alignment.offset) {
            return Err(DiskError::NoDirectAccess { path: path.to_owned(), length, block: alignment.offset });
        }
        opened.direct = Some(alignment);
        Ok(opened)
    }

    /// Opens and locks a regular file that the image at `image` names: one in the same directory, by its own name.
    pub(crate) fn open_beside(image: &Path, name: &str, write: bool) -> Result<Self, DiskError> {
        let refuse = |reason| DiskError::BadImage { path: image.to_owned(), reason };
        if ["", ".", ".."].contains(&name) || name.contains(['/', '\0']) {
            return Err(refuse(format!("it names '{name}', which is not in its own directory")));
        }
        let path = image.with_file_name(name);
        let file = match Self::open_file(&path, write, OFlags::NOFOLLOW) {
            Err(DiskError::Io { source, .. })
                if source.raw_os_error() == Some(Errno::LOOP.raw_os_error()) =>
            {
                return Err(refuse(format!("it names '{name}', a symbolic link, which is not followed")));
            }
            opened => Self::from_file(opened?, &path, write)?,
        };
        if file.is_block_device {
            return Err(refuse(format!("it names '{name}', which is no regular file")));
        }
        Ok(file)
    }

    fn open_file(path: &Path, write: bool, flags: OFlags) -> Result<File, DiskError> {
        // Non-blocking, because opening a FIFO would wait for its other end.
        OpenOptions::new()
            .read(true)
            .write(write)
            .custom_flags((flags | OFlags::NONBLOCK).bits().cast_signed())
            .open(path)
            .map_err(DiskError::io("open", path))
    }

    fn unlocked(file: File, path: &Path) -> Result<Self, DiskError> {
        let kind = file.metadata().map_err(DiskError::io("examine", path))?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(DiskError::NotADisk { path: path.to_owned() });
        }
        let is_block_device = kind.is_block_device();
        Ok(Self {
            file,
            path: path.to_owned(),
            is_block_device,
            durable: true,
            direct: None,
            blocks: RwLock::default(),
        })
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

    /// The file itself.
    pub(crate) fn into_file(self) -> File {
        self.file
    }

    /// One whose contents nobody needs once it is closed: it is never synced.
    pub(crate) fn fleeting(self) -> Self {
        Self { durable: false, ..self }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn is_block_device(&self) -> bool {
        self.is_block_device
    }

    /// What is asked of transfers, if they go past the host's cache.
    pub(crate) fn direct(&self) -> Option<Alignment> {
        self.direct
    }

    /// The least that the host writes without reading what is around it, in bytes.
    pub(crate) fn physical_block(&self) -> Result<u32, DiskError> {
        if self.is_block_device {
            return rustix::fs::ioctl_blkpbszget(&self.file).map_err(DiskError::io("examine", &self.path));
        }
        let metadata = self.file.metadata().map_err(DiskError::io("examine", &self.path))?;
        Ok(u32::try_from(metadata.blksize()).unwrap_or(u32::MAX))
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
        Ok(Self { file, path: self.path.clone(), blocks: RwLock::default(), ..*self })
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
        match self.direct {
            Some(align) if !align.fits(offset, [place(data)]) => self.read_around(align, offset, data),
            _ => self.file.read_exact_at(data, offset).map_err(DiskError::io("read", &self.path)),
        }
    }

    pub(crate) fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        let Some(align) = self.direct else { return self.write_as_is(offset, data) };
        if align.fits(offset, [place(data)]) {
            let _shared = self.blocks.read().unwrap_or_else(PoisonError::into_inner);
            return self.write_as_is(offset, data);
        }
        let _alone = self.blocks.write().unwrap_or_else(PoisonError::into_inner);
        self.around(align, offset, data.len(), |start, part, range| {
            let from = data.get(range).unwrap_or_default();
            if from.len() != part.len() {
                self.file.read_exact_at(part, start).map_err(DiskError::io("read", &self.path))?;
            }
            if let Some(to) = within(part, start, offset).and_then(|rest| rest.get_mut(..from.len())) {
                to.copy_from_slice(from);
            }
            self.write_as_is(start, part)
        })
    }

    fn write_as_is(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.file.write_all_at(data, offset).map_err(DiskError::io("write", &self.path))
    }

    fn read_around(&self, align: Alignment, offset: u64, data: &mut [u8]) -> Result<(), DiskError> {
        self.around(align, offset, data.len(), |start, part, range| {
            self.file.read_exact_at(part, start).map_err(DiskError::io("read", &self.path))?;
            let to = data.get_mut(range).unwrap_or_default();
            if let Some(from) = within(part, start, offset).and_then(|rest| rest.get(..to.len())) {
                to.copy_from_slice(from);
            }
            Ok(())
        })
    }

    /// Goes over the whole blocks around `length` bytes at `offset`, in pieces: with where a piece begins, aligned memory
    /// as long as it is, and which of the `length` bytes it has.
    fn around(
        &self,
        align: Alignment,
        offset: u64,
        length: usize,
        mut each: impl FnMut(u64, &mut [u8], Range<usize>) -> Result<(), DiskError>,
    ) -> Result<(), DiskError> {
        let blocks = align.around(offset, length as u64);
        let mut memory = Aligned::new(PIECE);
        let (mut start, mut done) = (blocks.start, 0_usize);
        while start < blocks.end {
            let part = memory.first(blocks.end.saturating_sub(start));
            let size = part.len();
            let skipped = usize::try_from(offset.saturating_sub(start)).unwrap_or(usize::MAX);
            let end = done.saturating_add(size.saturating_sub(skipped)).min(length);
            each(start, part, done..end)?;
            start = start.saturating_add(size as u64);
            done = end;
        }
        Ok(())
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

impl AsFd for DiskFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Address and length.
fn place(data: &[u8]) -> (u64, u64) {
    (data.as_ptr().addr() as u64, data.len() as u64)
}

/// What of a piece at `start` lies at `offset` and after it.
fn within(part: &mut [u8], start: u64, offset: u64) -> Option<&mut [u8]> {
    part.get_mut(usize::try_from(offset.saturating_sub(start)).ok()?..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn direct_access_takes_any_offset_and_length() {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = directory.path().join("disk");
        let mut expected: Vec<u8> = (0..1 << 20).map(|at| (at % 251) as u8).collect();
        std::fs::write(&path, &expected).unwrap();
        let file = match DiskFile::open_direct(&path, true) {
            Ok(file) => file,
            Err(error) => {
                eprintln!("NOT TESTED: direct access to files: {error}");
                return;
            }
        };
        for (offset, length) in
            [(0, 4096), (1, 1), (511, 2), (4095, 70_000), (300_001, 600_000), (1 << 19, 1 << 18)]
        {
            let data: Vec<u8> = (0..length).map(|at| (at % 13) as u8).collect();
            file.write_at(offset as u64, &data).unwrap();
            expected[offset..offset + length].copy_from_slice(&data);
            let mut read = vec![0; length + 2];
            let from = offset.saturating_sub(1).min((1 << 20) - read.len());
            file.read_at(from as u64, &mut read).unwrap();
            assert_eq!(read, expected[from..from + length + 2], "{length} bytes at {offset}");
        }
        drop(file);
        assert!(std::fs::read(&path).unwrap() == expected);
    }

    #[test]
    fn direct_access_is_refused_where_the_file_ends_within_a_block() {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = directory.path().join("disk");
        std::fs::write(&path, [0; 1000]).unwrap();
        let error = DiskFile::open_direct(&path, false).unwrap_err();
        assert!(
            matches!(error, DiskError::NoDirectAccess { length: 1000, .. } | DiskError::Io { .. }),
            "{error}"
        );
    }
}
