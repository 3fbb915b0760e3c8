//! A file or block device as it is.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use crate::file::DiskFile;
use crate::{Disk, DiskError, SECTOR, check_range, length_of};

/// What a disk is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Only to be read, together with other readers.
    ReadOnly,
    /// To be read and written, alone.
    ReadWrite,
}

/// Whether a file's contents go through the host's cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caching {
    /// They do.
    Host,
    /// They go past it (`O_DIRECT`).
    Direct,
}

/// A disk whose bytes are those of a file or block device.
///
/// The size is the file's length at opening, rounded down to whole sectors: the bytes of a last part of a
/// sector are not reachable, and stay as they are.
#[derive(Debug)]
pub struct RawDisk {
    file: DiskFile,
    size: u64,
    physical_block: u32,
    read_only: bool,
}

/// Opens and locks a file as a disk's is, for whoever uses its bytes in a way of his own.
///
/// # Errors
/// When it cannot be opened, is in use in a way that excludes `access`, or is neither a file nor a block device.
pub fn open_locked(path: &Path, access: Access) -> Result<File, DiskError> {
    Ok(DiskFile::open(path, access == Access::ReadWrite)?.into_file())
}

/// The largest physical block that is told of. Some file systems name what they like to be written at once.
const LARGEST_BLOCK: u32 = 4096;

impl RawDisk {
    /// Opens and locks the file at `path`.
    ///
    /// # Errors
    /// When it cannot be opened, is in use in a way that excludes `access`, is neither a file nor a block
    /// device, or is smaller than a sector.
    pub fn open(path: &Path, access: Access) -> Result<Self, DiskError> {
        Self::open_with(path, access, Caching::Host)
    }

    /// The same with a say about the host's cache.
    ///
    /// # Errors
    /// As [`RawDisk::open`]; with [`Caching::Direct`] also when its file system has no direct access, or the file ends
    /// within one of the blocks in which that is done.
    pub fn open_with(path: &Path, access: Access, caching: Caching) -> Result<Self, DiskError> {
        let write = access == Access::ReadWrite;
        let file = match caching {
            Caching::Host => DiskFile::open(path, write)?,
            Caching::Direct => DiskFile::open_direct(path, write)?,
        };
        let length = file.length()?;
        let size = length & !(SECTOR.wrapping_sub(1));
        if size == 0 {
            return Err(DiskError::TooSmall { path: path.to_owned(), length });
        }
        let physical_block = match file.physical_block()? {
            block if block.is_power_of_two() => block.clamp(SECTOR as u32, LARGEST_BLOCK),
            _ => SECTOR as u32,
        };
        Ok(Self { file, size, physical_block, read_only: access == Access::ReadOnly })
    }

    pub(crate) fn file(&self) -> &DiskFile {
        &self.file
    }

    pub(crate) fn check_change(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        if self.read_only {
            return Err(DiskError::ReadOnly { path: self.file.path().to_owned() });
        }
        check_range(offset, length, self.size)
    }
}

/// Makes the raw disk at `path` larger by zeroes, or smaller if `shrink` allows that.
///
/// # Errors
/// When the file cannot be written, or would lose something.
pub fn resize_raw(path: &Path, size: u64, shrink: bool) -> Result<(), DiskError> {
    let file = DiskFile::open(path, true)?;
    let length = file.length()?;
    let refuse = |reason| Err(DiskError::CannotCreate { path: path.to_owned(), reason });
    if size == 0 || !size.is_multiple_of(SECTOR) {
        return refuse(format!("a disk has sectors of {SECTOR} bytes, which {size} bytes are not"));
    }
    if size < length && !shrink {
        return refuse(format!(
            "{size} bytes are less than its {length}; give --shrink if what is behind may go"
        ));
    }
    file.set_length(size)?;
    file.sync()
}

impl Disk for RawDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn physical_block(&self) -> u32 {
        self.physical_block
    }

    fn as_raw(&self) -> Option<&RawDisk> {
        Some(self)
    }

    fn read_at(&self, offset: u64, data: &mut [u8]) -> Result<(), DiskError> {
        check_range(offset, length_of(data), self.size)?;
        self.file.read_at(offset, data)
    }

    fn data_from(&self, offset: u64) -> Result<Option<Range<u64>>, DiskError> {
        let Some(data) = self.file.data_from(offset)? else { return Ok(None) };
        Ok((data.start < self.size).then(|| data.start..data.end.min(self.size)))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.check_change(offset, length_of(data))?;
        self.file.write_at(offset, data)
    }

    fn flush(&self) -> Result<(), DiskError> {
        if self.read_only { Ok(()) } else { self.file.sync() }
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.check_change(offset, length)?;
        self.file.discard(offset, length)
    }

    fn write_zeroes(&self, offset: u64, length: u64, may_unmap: bool) -> Result<(), DiskError> {
        self.check_change(offset, length)?;
        self.file.write_zeroes(offset, length, may_unmap)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file_of(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn a_last_part_of_a_sector_is_not_reachable_and_stays() {
        let file = file_of(&[7; 1300]);
        let disk = RawDisk::open(file.path(), Access::ReadWrite).unwrap();
        assert_eq!(disk.size(), 1024);
        assert!(matches!(disk.write_at(1000, &[0; 25]), Err(DiskError::OutOfRange { .. })));
        assert!(matches!(disk.discard(u64::MAX, 2), Err(DiskError::OutOfRange { .. })));
        disk.write_zeroes(0, 1024, true).unwrap();
        let bytes = std::fs::read(file.path()).unwrap();
        assert!(bytes[..1024].iter().all(|&b| b == 0) && bytes[1024..] == [7; 276]);
    }

    #[test]
    fn zeroes_are_written_by_hand_where_the_host_has_no_better_way() {
        let file = file_of(&vec![7; 300 << 10]);
        let disk = RawDisk::open(file.path(), Access::ReadWrite).unwrap();
        disk.file.write_zeroes_by_hand(512, 200 << 10).unwrap();
        let bytes = std::fs::read(file.path()).unwrap();
        let (zeroed, rest) = bytes[512..].split_at(200 << 10);
        assert!(bytes[..512].iter().chain(rest).all(|&b| b == 7) && zeroed.iter().all(|&b| b == 0));
    }

    #[test]
    fn a_writer_is_alone_and_readers_share() {
        let file = file_of(&[0; 512]);
        let writer = RawDisk::open(file.path(), Access::ReadWrite).unwrap();
        for access in [Access::ReadOnly, Access::ReadWrite] {
            let error = RawDisk::open(file.path(), access).unwrap_err();
            assert!(matches!(error, DiskError::InUse { .. }), "{error}");
        }
        drop(writer);
        let _reader = RawDisk::open(file.path(), Access::ReadOnly).unwrap();
        let other = RawDisk::open(file.path(), Access::ReadOnly).unwrap();
        assert!(RawDisk::open(file.path(), Access::ReadWrite).is_err());
        assert!(matches!(other.write_at(0, &[1]), Err(DiskError::ReadOnly { .. })));
        assert!(matches!(other.discard(0, 1), Err(DiskError::ReadOnly { .. })));
        other.flush().unwrap();
    }

    #[test]
    fn what_is_no_disk_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let open = |path: &Path| RawDisk::open(path, Access::ReadOnly).unwrap_err();
        assert!(matches!(open(directory.path()), DiskError::NotADisk { .. }));
        assert!(matches!(open(Path::new("/dev/null")), DiskError::NotADisk { .. }));
        assert!(matches!(open(&directory.path().join("absent")), DiskError::Io { .. }));
        assert!(matches!(open(file_of(&[0; 511]).path()), DiskError::TooSmall { length: 511, .. }));
    }

    #[test]
    fn discarded_space_goes_back_to_the_host() {
        use std::os::unix::fs::MetadataExt;
        let file = file_of(&vec![7; 1 << 20]);
        let disk = RawDisk::open(file.path(), Access::ReadWrite).unwrap();
        disk.flush().unwrap();
        let blocks = || file.as_file().metadata().unwrap().blocks();
        let before = blocks();
        disk.discard(0, 1 << 20).unwrap();
        let mut data = [1; 512];
        disk.read_at(0, &mut data).unwrap();
        // Either the file system punches holes, or the discard changed nothing.
        assert!(blocks() < before && data == [0; 512] || data == [7; 512]);
    }
}
