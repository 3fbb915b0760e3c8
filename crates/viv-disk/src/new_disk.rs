//! A disk that is filled once, from beginning to end, and appears complete or not at all.

use std::path::Path;

use crate::new_file::NewFile;
use crate::qcow2::{self, CreateOptions, Qcow2Disk};
use crate::vmdk::{self, Layout, Stream, VmdkDisk};
use crate::{Access, Disk, DiskError, Format};

/// What a new disk is to be.
#[derive(Debug, Clone)]
pub enum NewFormat {
    /// A file whose bytes are the disk's.
    Raw,
    /// A qcow2 image.
    Qcow2(CreateOptions),
    /// A VMDK image.
    Vmdk(Layout),
}

impl NewFormat {
    /// Its format.
    #[must_use]
    pub fn format(&self) -> Format {
        match self {
            Self::Raw => Format::Raw,
            Self::Qcow2(_) => Format::Qcow2,
            Self::Vmdk(_) => Format::Vmdk,
        }
    }
}

/// A new disk without its name yet. Dropping it leaves nothing.
#[derive(Debug)]
pub struct NewDisk {
    new: NewFile,
    contents: Contents,
}

#[derive(Debug)]
enum Contents {
    /// The file is the disk.
    Raw,
    Qcow2(Box<Qcow2Disk>),
    Vmdk(VmdkDisk),
    Stream(Stream),
}

impl NewDisk {
    /// Begins a disk of `size` bytes that reads as zeroes, or as its backing file does.
    ///
    /// # Errors
    /// When something is at `path` already, the options do not fit each other, or the file cannot be made.
    pub fn create(path: &Path, size: u64, format: &NewFormat) -> Result<Self, DiskError> {
        let new = NewFile::create(path)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let file = new.file();
        let contents = match format {
            NewFormat::Raw => {
                file.set_length(size)?;
                Contents::Raw
            }
            NewFormat::Qcow2(options) => {
                qcow2::write_new(file, size, options)?;
                let storage = Box::new(file.try_clone()?);
                Contents::Qcow2(Box::new(Qcow2Disk::over(storage, Access::ReadWrite, None)?))
            }
            NewFormat::Vmdk(Layout::Sparse) => {
                vmdk::write_new(file, &name, size)?;
                Contents::Vmdk(VmdkDisk::in_one_file(file.try_clone()?)?)
            }
            NewFormat::Vmdk(Layout::Stream) => {
                Contents::Stream(Stream::begin(file.try_clone()?, &name, size)?)
            }
        };
        Ok(Self { new, contents })
    }

    /// Puts `data` at `offset`.
    ///
    /// # Errors
    /// When the host fails, or the range does not lie within the disk; of an image that is made to be sent, also when it
    /// is not whole grains of 64 KiB, or lies before what was written already.
    pub fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        match &mut self.contents {
            Contents::Raw => self.new.file().write_at(offset, data),
            Contents::Qcow2(image) => image.write_at(offset, data),
            Contents::Vmdk(image) => image.write_at(offset, data),
            Contents::Stream(stream) => stream.append(offset, data),
        }
    }

    /// Puts a cluster at `offset`, compressed if the format can do that and it makes it smaller.
    ///
    /// # Errors
    /// As for [`NewDisk::write_at`].
    pub fn write_compressed(&mut self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        match &self.contents {
            Contents::Qcow2(image) => image.write_compressed(offset, data),
            Contents::Raw | Contents::Vmdk(_) | Contents::Stream(_) => self.write_at(offset, data),
        }
    }

    /// Makes it durable and gives it its name.
    ///
    /// # Errors
    /// When something has appeared there, or the host fails.
    pub fn finish(self) -> Result<(), DiskError> {
        match self.contents {
            Contents::Raw => {}
            Contents::Qcow2(image) => image.flush()?,
            Contents::Vmdk(image) => image.flush()?,
            Contents::Stream(stream) => stream.finish()?,
        }
        self.new.finish()
    }
}
