//! What an image format asks of the file below it.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use crate::file::DiskFile;
use crate::{DiskError, length_of};

/// A file that holds an image. In tests it is one that records what reaches it, to cut the power.
pub(crate) trait Storage: Send + Sync + fmt::Debug {
    /// The file's name, for messages.
    fn path(&self) -> &Path;

    /// The length in bytes.
    fn length(&self) -> Result<u64, DiskError>;

    /// Makes the file shorter, or longer by a hole.
    fn set_length(&self, length: u64) -> Result<(), DiskError>;

    /// Fills `data` as far as the file reaches; how many bytes that were.
    fn read_some(&self, offset: u64, data: &mut [u8]) -> Result<usize, DiskError>;

    /// Puts `data` at `offset`.
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), DiskError>;

    /// Makes what was written outlive a power cut.
    fn sync(&self) -> Result<(), DiskError>;

    /// Gives the space of a range back, if the host can.
    fn discard(&self, offset: u64, length: u64) -> Result<(), DiskError>;

    /// Makes a range read as zeroes. `may_unmap` allows its space to be given back to the host.
    fn write_zeroes(&self, offset: u64, length: u64, may_unmap: bool) -> Result<(), DiskError>;

    /// The first range at or behind `offset` that the file does not know to be zeroes.
    fn data_from(&self, offset: u64) -> Result<Option<Range<u64>>, DiskError> {
        Ok(Some(offset..u64::MAX))
    }

    /// Fills all of `data`.
    fn read_at(&self, offset: u64, data: &mut [u8]) -> Result<(), DiskError> {
        let wanted = data.len();
        if self.read_some(offset, data)? == wanted {
            return Ok(());
        }
        Err(DiskError::BadImage {
            path: self.path().to_owned(),
            reason: format!(
                "it ends before the {} bytes at offset {offset} that it refers to",
                length_of(data)
            ),
        })
    }
}

impl Storage for DiskFile {
    fn path(&self) -> &Path {
        self.path()
    }

    fn length(&self) -> Result<u64, DiskError> {
        self.length()
    }

    fn set_length(&self, length: u64) -> Result<(), DiskError> {
        self.set_length(length)
    }

    fn read_some(&self, offset: u64, data: &mut [u8]) -> Result<usize, DiskError> {
        self.read_some(offset, data)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.write_at(offset, data)
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.sync()
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.discard(offset, length)
    }

    fn write_zeroes(&self, offset: u64, length: u64, may_unmap: bool) -> Result<(), DiskError> {
        self.write_zeroes(offset, length, may_unmap)
    }

    fn data_from(&self, offset: u64) -> Result<Option<Range<u64>>, DiskError> {
        self.data_from(offset)
    }
}
