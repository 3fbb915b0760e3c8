//! Disks kept of guests, as by `viv run --keep NAME`.
//!
//! A run writes to an overlay over its image's root disk, which is thrown away unless it is given a name.
//! A kept one has a directory in the store with a record of the image it builds on; what else is in there is
//! the business of whoever made the overlay.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::files;
use crate::image::ImageHandle;
use crate::lock::{self, Lock};
use crate::store::Store;

/// The record in a kept disk's directory.
const RECORD: &str = "instance.json";
/// Held by the guest that runs from the disk.
const LOCK: &str = "lock";
/// Version of the record.
const FORMAT: u32 = 1;
/// Longest name, as for a host name.
const LONGEST_NAME: usize = 63;

/// Why a kept disk cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name is not one.
    #[error(
        "{0:?} is no name for a kept disk: use up to {LONGEST_NAME} letters, digits and dashes, a letter or digit first"
    )]
    Name(String),
    /// It builds on another image.
    #[error("kept disk {name} builds on {found}, not on {wanted}; choose another name or image")]
    OtherImage {
        /// The disk.
        name: String,
        /// What it builds on.
        found: String,
        /// The image that was asked for.
        wanted: String,
    },
    /// Another guest has it.
    #[error("kept disk {0} is in use by a running guest")]
    InUse(String),
    /// There is none of that name.
    #[error("there is no kept disk called {0:?}")]
    Absent(String),
    /// Its record is not one of this version.
    #[error("reading {}: it is no record of a kept disk", path.display())]
    Malformed {
        /// The record.
        path: PathBuf,
        /// What is wrong with it, where the form is.
        source: Option<serde_json::Error>,
    },
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] files::Error),
}

/// What is known about a kept disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Version of this record.
    format: u32,
    /// Name of the disk.
    pub name: String,
    /// Full name of the image it builds on.
    pub image: String,
}

/// A kept disk in use. As long as this exists nobody else can have it.
#[derive(Debug)]
pub struct KeptDisk {
    directory: PathBuf,
    _lock: Lock,
}

impl KeptDisk {
    /// The directory in which its overlay belongs.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Store {
    /// Where the disk kept under a name is, whether it exists or not.
    ///
    /// # Errors
    /// [`Error::Name`] if disks cannot be called that.
    pub fn overlay_path(&self, name: &str) -> Result<PathBuf, Error> {
        let fits = name.len() <= LONGEST_NAME
            && name.starts_with(|first: char| first.is_ascii_alphanumeric())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        if fits { Ok(self.instances().join(name)) } else { Err(Error::Name(name.into())) }
    }

    /// The disk kept under a name, made if need be, for a guest of this image.
    ///
    /// # Errors
    /// If it is in use or builds on another image.
    pub fn keep(&self, name: &str, image: &ImageHandle) -> Result<KeptDisk, Error> {
        let directory = self.overlay_path(name)?;
        files::create_dir_all(&directory)?;
        let lock = lock::attempt(&directory.join(LOCK), FlockOperation::NonBlockingLockExclusive)?
            .ok_or_else(|| Error::InUse(name.into()))?;
        let wanted = image.name().to_string();
        match read_record(&directory) {
            Ok(record) if record.image == wanted => {}
            Ok(record) => return Err(Error::OtherImage { name: name.into(), found: record.image, wanted }),
            Err(Error::File(error)) if error.source.kind() == io::ErrorKind::NotFound => {
                write_record(&directory, &Record { format: FORMAT, name: name.into(), image: wanted })?;
            }
            Err(error) => return Err(error),
        }
        Ok(KeptDisk { directory, _lock: lock })
    }

    /// All kept disks, by name.
    ///
    /// # Errors
    /// If a record cannot be read.
    pub fn kept(&self) -> Result<Vec<Record>, Error> {
        let mut records = Vec::new();
        for directory in files::entries(&self.instances())? {
            match read_record(&directory) {
                Ok(record) => records.push(record),
                // Made by a process that came no further.
                Err(Error::File(error)) if error.source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(records)
    }

    /// Removes a kept disk.
    ///
    /// # Errors
    /// If there is none of that name, or a guest runs from it.
    pub fn remove_kept(&self, name: &str) -> Result<(), Error> {
        let directory = self.overlay_path(name)?;
        let path = directory.join(LOCK);
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Error::Absent(name.into())),
            opened => opened.map_err(files::at("opening lock", &path))?,
        };
        let _lock = lock::attempt_file(file, &path, FlockOperation::NonBlockingLockExclusive)?
            .ok_or_else(|| Error::InUse(name.into()))?;
        Ok(files::remove_tree(&directory)?)
    }
}

fn read_record(directory: &Path) -> Result<Record, Error> {
    let path = directory.join(RECORD);
    let text = files::read(&path)?;
    match serde_json::from_slice::<Record>(&text) {
        Ok(record) if record.format == FORMAT => Ok(record),
        Ok(_) => Err(Error::Malformed { path, source: None }),
        Err(source) => Err(Error::Malformed { path, source: Some(source) }),
    }
}

fn write_record(directory: &Path, record: &Record) -> Result<(), Error> {
    let path = directory.join(RECORD);
    let text = serde_json::to_vec_pretty(record)
        .map_err(|source| Error::Malformed { path: path.clone(), source: Some(source) })?;
    // Renamed into place: a record is whole or not there.
    let draft = directory.join(format!("{RECORD}.new"));
    files::write(&draft, &text)?;
    Ok(files::rename(&draft, &path)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{FORMAT as IMAGE_FORMAT, METADATA, Metadata};
    use crate::name::ImageName;
    use crate::progress::Silent;
    use crate::store;

    fn add(store: &Store, name: ImageName) -> ImageHandle {
        let metadata = Metadata {
            format: IMAGE_FORMAT,
            name: name.to_string(),
            suite: name.suite().into(),
            kernel_version: String::new(),
            created: 0,
            root_size: 0,
            stored_size: 0,
        };
        let directory = store.path().join("images").join(name.directory());
        files::create_dir_all(&directory).unwrap();
        files::write(&directory.join(METADATA), &serde_json::to_vec(&metadata).unwrap()).unwrap();
        store.get(name).unwrap()
    }

    #[test]
    fn a_kept_disk_belongs_to_one_guest_and_one_image() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open_at(home.path()).unwrap();
        let names: Vec<ImageName> = ImageName::all().collect();
        let image = add(&store, names[0]);
        let kept = store.keep("work", &image).unwrap();
        assert!(kept.directory().is_dir());
        assert!(matches!(store.keep("work", &image), Err(Error::InUse(_))));
        assert!(matches!(store.remove_kept("work"), Err(Error::InUse(_))));
        drop(kept);
        assert!(matches!(store.keep("work", &add(&store, names[1])), Err(Error::OtherImage { .. })));

        drop(image);
        assert!(matches!(store.remove(names[0], &Silent), Err(store::Error::Kept { .. })));
        store.remove_kept("work").unwrap();
        assert!(matches!(store.remove_kept("work"), Err(Error::Absent(_))));
        store.remove(names[0], &Silent).unwrap();
    }

    #[test]
    fn names_cannot_lead_elsewhere() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open_at(home.path()).unwrap();
        for name in ["", ".", "..", "a/b", "-a", "a b", "ä", &"x".repeat(64)] {
            assert!(matches!(store.overlay_path(name), Err(Error::Name(_))), "{name:?}");
        }
        assert!(store.overlay_path("web-1").is_ok());
    }
}
