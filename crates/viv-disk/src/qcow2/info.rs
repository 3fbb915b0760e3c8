//! What an image says about itself.

use std::path::{Path, PathBuf};

use super::header::{CORRUPT, Compression, DIRTY, LAZY_REFCOUNTS};
use super::{read_header, snapshots};
use crate::file::DiskFile;
use crate::{DiskError, Format};

/// What an image says about itself, also one that cannot be used.
#[derive(Debug, Clone)]
pub struct Info {
    /// The disk's size in bytes.
    pub size: u64,
    /// The version of the format, 2 or 3.
    pub version: u32,
    /// Bytes in a cluster.
    pub cluster_size: u64,
    /// Bits in a refcount.
    pub refcount_bits: u32,
    /// Whether clusters have subclusters.
    pub extended_l2: bool,
    /// How clusters are compressed, if that is known.
    pub compression: Option<Compression>,
    /// Whether refcounts may be written late.
    pub lazy_refcounts: bool,
    /// Whether it was not closed, so that refcounts may be wrong.
    pub dirty: bool,
    /// Whether it is marked as corrupt.
    pub corrupt: bool,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// The backing file as the image names it.
    pub backing: Option<PathBuf>,
    /// The backing file's format if it is stated, or what is stated and not known.
    pub backing_format: Option<Result<Format, String>>,
    /// Snapshots inside the image.
    pub snapshots: Vec<Snapshot>,
    /// Why it cannot even be read, in words.
    pub refused: Option<String>,
}

/// A snapshot inside an image.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Its identifier.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was made, in seconds since 1970.
    pub seconds: u32,
    /// Bytes of a machine's state that were saved with it.
    pub vm_state: u64,
}

/// Reads the header of the image at `path`, and nothing that it refers to but its list of snapshots.
///
/// # Errors
/// When the file cannot be read, or is no qcow2 image.
pub fn info(path: &Path) -> Result<Info, DiskError> {
    let file = DiskFile::open_unlocked(path)?;
    let header = read_header(&file)?;
    let (snapshots, _) = snapshots::read(&file, &header)?;
    Ok(Info {
        size: header.size,
        version: header.geometry.version,
        cluster_size: header.geometry.cluster_size(),
        refcount_bits: 1_u32.wrapping_shl(header.geometry.refcount_order),
        extended_l2: header.geometry.extended,
        compression: header.compression(),
        lazy_refcounts: header.compatible & LAZY_REFCOUNTS != 0,
        dirty: header.incompatible & DIRTY != 0,
        corrupt: header.incompatible & CORRUPT != 0,
        encrypted: header.crypt_method != 0,
        backing_format: header.backing_format(),
        refused: header.refuse(false).err(),
        backing: header.backing,
        snapshots: (snapshots.into_iter())
            .map(|entry| Snapshot {
                id: entry.id,
                name: entry.name,
                seconds: entry.seconds,
                vm_state: entry.vm_state,
            })
            .collect(),
    })
}
