//! A disk that is filled once, from beginning to end, and appears complete or not at all.

use std::path::Path;

use crate::new_file::NewFile;
use crate::qcow2::{self, CreateOptions, Qcow2Disk};
use crate::{Access, Disk, DiskError, Format};

/// A new disk without its name yet. Dropping it leaves nothing.
#[derive(Debug)]
pub struct NewDisk {
    new: NewFile,
    /// None for a raw disk, which is the file.
    image: Option<Qcow2Disk>,
}

impl NewDisk {
    /// Begins a disk of `size` bytes that reads as zeroes, or as its backing file does. `options` are those of a qcow2 image.
    ///
    /// # Errors
    /// When something is at `path` already, the options do not fit each other, or the file cannot be made.
    pub fn create(
        path: &Path,
        format: Format,
        size: u64,
        options: &CreateOptions,
    ) -> Result<Self, DiskError> {
        let new = NewFile::create(path)?;
        let image = match format {
            Format::Raw => {
                new.file().set_length(size)?;
                None
            }
            Format::Qcow2 => {
                qcow2::write_new(new.file(), size, options)?;
                Some(Qcow2Disk::over(Box::new(new.file().try_clone()?), Access::ReadWrite, None)?)
            }
        };
        Ok(Self { new, image })
    }

    /// Puts `data` at `offset`.
    ///
    /// # Errors
    /// When the host fails, or the range does not lie within the disk.
    pub fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        match &self.image {
            Some(image) => image.write_at(offset, data),
            None => self.new.file().write_at(offset, data),
        }
    }

    /// Puts a cluster at `offset`, compressed if the format can do that and it makes it smaller.
    ///
    /// # Errors
    /// As for [`NewDisk::write_at`].
    pub fn write_compressed(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        match &self.image {
            Some(image) => image.write_compressed(offset, data),
            None => self.new.file().write_at(offset, data),
        }
    }

    /// Makes it durable and gives it its name.
    ///
    /// # Errors
    /// When something has appeared there, or the host fails.
    pub fn finish(self) -> Result<(), DiskError> {
        if let Some(image) = &self.image {
            image.flush()?;
        }
        drop(self.image);
        self.new.finish()
    }
}
