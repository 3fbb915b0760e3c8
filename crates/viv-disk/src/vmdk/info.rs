//! What an image says about itself.

use std::path::Path;

use super::Image;
use super::descriptor::Kind;
use crate::file::DiskFile;
use crate::{DiskError, SECTOR};

/// What an image says about itself, also one that cannot be used.
#[derive(Debug, Clone)]
pub struct Info {
    /// The disk's size in bytes.
    pub size: u64,
    /// What kind of image it is, such as `monolithicSparse`.
    pub create_type: String,
    /// The number that changes with its contents.
    pub content_id: u32,
    /// That of the image below it, if there is one.
    pub parent_content_id: Option<u32>,
    /// Bytes of a grain, if the image is one file.
    pub grain_size: Option<u64>,
    /// What it consists of.
    pub extents: Vec<Extent>,
    /// Why it cannot even be read, in words.
    pub refused: Option<String>,
}

/// A part of a disk.
#[derive(Debug, Clone)]
pub struct Extent {
    /// Its file as the image names it; empty for a part of zeroes.
    pub file: String,
    /// `SPARSE`, `FLAT` or `ZERO`.
    pub kind: &'static str,
    /// Its size in bytes.
    pub size: u64,
}

/// Reads the descriptor of the image at `path`, and nothing that it refers to.
///
/// # Errors
/// When the file cannot be read, or is no VMDK image.
pub fn info(path: &Path) -> Result<Info, DiskError> {
    let image = Image::read(&DiskFile::open_unlocked(path)?)?;
    let size = image.size();
    let refused = image.descriptor.refuse(false).err();
    let extents = image.descriptor.parts.into_iter().map(|part| Extent {
        file: part.file,
        kind: match part.kind {
            Kind::Sparse => "SPARSE",
            Kind::Flat(_) => "FLAT",
            Kind::Zero => "ZERO",
        },
        size: part.sectors.saturating_mul(SECTOR),
    });
    Ok(Info {
        size,
        create_type: image.descriptor.create_type,
        content_id: image.descriptor.content,
        parent_content_id: image.descriptor.parent,
        grain_size: image.header.map(|header| header.grain_bytes()),
        extents: extents.collect(),
        refused,
    })
}
