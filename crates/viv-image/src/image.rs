//! What an image consists of.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::lock::Lock;
use crate::name::ImageName;
use crate::{files, initrd};

/// The kernel, as Debian built it.
pub(crate) const KERNEL: &str = "kernel";
/// Archive of the modules for the initial RAM disk.
pub(crate) const MODULES: &str = "modules.cpio";
/// The root file system: a raw disk that holds ext4, sparse.
pub(crate) const ROOT: &str = "root.ext4";
/// [`Metadata`]; written last, and what runs of the image lock.
pub(crate) const METADATA: &str = "image.json";

/// Format of images that this version writes and reads: their files, and what is in the initial RAM disk. 2 has the
/// driver of sockets to the host.
pub(crate) const FORMAT: u32 = 2;

/// What is known about an image, `image.json` in its directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Format of the image; other formats are refused.
    pub format: u32,
    /// Full name, as in `debian:bookworm`.
    pub name: String,
    /// Release of the distribution.
    pub suite: String,
    /// Version of the kernel, as `uname -r` tells it in the guest.
    pub kernel_version: String,
    /// When it was built, in seconds since 1970.
    pub created: u64,
    /// Size of the root disk as the guest sees it, in bytes.
    pub root_size: u64,
    /// What the image occupies on the host's disk, in bytes.
    pub stored_size: u64,
}

impl Metadata {
    /// When the image was built.
    #[must_use]
    pub fn created_at(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.created)
    }
}

/// Why an image's description cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be read.
    #[error(transparent)]
    File(#[from] files::Error),
    /// It is not such a description.
    #[error("reading {}: it does not describe an image", path.display())]
    Malformed {
        /// The description.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// It was written by another version.
    #[error(
        "image {name} has format {format}, this version needs {FORMAT}; 'viv image rm {name}' removes it, and the next run builds it anew"
    )]
    Format {
        /// The image.
        name: String,
        /// Its format.
        format: u32,
    },
}

/// Reads the description of the image in a directory.
pub(crate) fn read_metadata(directory: &Path) -> Result<Metadata, Error> {
    let path = directory.join(METADATA);
    let text = files::read(&path)?;
    let metadata: Metadata =
        serde_json::from_slice(&text).map_err(|source| Error::Malformed { path, source })?;
    if metadata.format == FORMAT {
        Ok(metadata)
    } else {
        Err(Error::Format { name: metadata.name, format: metadata.format })
    }
}

/// An image in use. As long as this exists the image cannot be removed.
#[derive(Debug)]
pub struct ImageHandle {
    pub(crate) name: ImageName,
    pub(crate) directory: PathBuf,
    pub(crate) metadata: Metadata,
    pub(crate) _lock: Lock,
}

impl ImageHandle {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> ImageName {
        self.name
    }

    /// What is known about it.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The kernel: a bzImage.
    #[must_use]
    pub fn kernel(&self) -> PathBuf {
        self.directory.join(KERNEL)
    }

    /// The root disk: raw, ext4 without partitions. It is shared by all guests and must not be written to.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.directory.join(ROOT)
    }

    /// The initial RAM disk: this guest program and the kernel modules it needs.
    ///
    /// # Errors
    /// If the image's modules cannot be read or the program is too long for the format.
    pub fn initrd(&self, guest_program: &[u8]) -> Result<Vec<u8>, files::Error> {
        let path = self.directory.join(MODULES);
        let modules = files::read(&path)?;
        initrd::assemble(guest_program, &modules)
            .map_err(files::at("building an initial RAM disk from", &path))
    }
}
