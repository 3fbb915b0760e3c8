//! The directory of images on this machine.
//!
//! ```text
//! STORE/version                   layout of the store
//!       build.lock                held by whoever builds or removes
//!       images/debian-bookworm/   an image: complete or absent
//!       building/                 what is being made or unmade; leftovers if nobody holds build.lock
//!       logs/                     what the programs said that the last builds ran
//!       instances/NAME/           disks kept of guests (see `overlay`)
//! ```

use std::env;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, FlockOperation, access};

use crate::image::{self, ImageHandle, Metadata};
use crate::lock::{self, Lock};
use crate::name::ImageName;
use crate::progress::Progress;
use crate::{debian, files, overlay};

/// Layout of the store that this version reads and writes.
const LAYOUT: &str = "1\n";

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The environment names no place for the store.
    #[error("finding a place for images: neither VIV_HOME, XDG_DATA_HOME nor HOME is set")]
    NoHome,
    /// The store was made by another version.
    #[error("the store {} has layout {found:?}, this version needs {:?}; set VIV_HOME to another directory", path.display(), LAYOUT.trim_end())]
    Layout {
        /// The store.
        path: PathBuf,
        /// Its layout.
        found: String,
    },
    /// The image has not been built.
    #[error("image {0} is not on this machine")]
    Absent(ImageName),
    /// Guests are running from the image.
    #[error("image {0} is in use by a running guest; stop it first")]
    InUse(ImageName),
    /// Disks are kept that are nothing without the image.
    #[error("image {image} is needed by the kept disk {}; remove that first", kept.join(", "))]
    Kept {
        /// The image.
        image: ImageName,
        /// Names of the disks.
        kept: Vec<String>,
    },
    /// The image's description cannot be used.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// The image could not be built.
    #[error("building image {name}")]
    Build {
        /// The image.
        name: ImageName,
        /// Why not.
        source: Box<debian::Error>,
    },
    /// The lock of the store was not had.
    #[error(transparent)]
    Lock(#[from] lock::Error),
    /// Something about kept disks.
    #[error(transparent)]
    Overlay(#[from] overlay::Error),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] files::Error),
}

/// A store of images.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Opens this user's store: `VIV_HOME`; `/var/lib/vivarium` for root, who builds for the whole machine;
    /// `vivarium` in the user's data directory (XDG Base Directory Specification) for everyone else.
    ///
    /// # Errors
    /// If there is no such place, it cannot be created, or another version uses it.
    pub fn open() -> Result<Self, Error> {
        Self::open_at(&Self::place()?)
    }

    /// Where [`open`](Self::open) has or would have this user's store.
    ///
    /// # Errors
    /// If there is no such place.
    pub fn place() -> Result<PathBuf, Error> {
        let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(home) = set("VIV_HOME") {
            Ok(home)
        } else if rustix::process::geteuid().is_root() {
            Ok("/var/lib/vivarium".into())
        } else {
            let data = set("XDG_DATA_HOME").or_else(|| set("HOME").map(|home| home.join(".local/share")));
            Ok(data.ok_or(Error::NoHome)?.join("vivarium"))
        }
    }

    /// Opens the store in this directory, creating it if need be, and removes what an interrupted build left
    /// there.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_at(root: &Path) -> Result<Self, Error> {
        files::create_dir_all(root)?;
        // Programs of other directories are run from here.
        let root = root.canonicalize().map_err(files::at("resolving", root))?;
        let store = Self { root };
        for directory in [store.images(), store.building(), store.logs(), store.instances()] {
            files::create_dir_all(&directory)?;
        }
        let version = store.root.join("version");
        if !version.exists() {
            files::write(&version, LAYOUT.as_bytes())?;
        }
        let found = files::read_to_string(&version)?;
        if found != LAYOUT {
            return Err(Error::Layout { path: store.root, found: found.trim_end().into() });
        }
        // A store that somebody else keeps is as good to run from; what is left over there is theirs to clear away.
        if access(&store.root, Access::WRITE_OK).is_ok()
            && let Some(_lock) = lock::attempt(&store.build_lock(), FlockOperation::NonBlockingLockExclusive)?
        {
            store.sweep()?;
        }
        Ok(store)
    }

    /// The store's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// All images, by name. One that cannot be read is reported in its place and does not hide the others.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn list(&self) -> Result<Vec<Result<Metadata, image::Error>>, Error> {
        let directories = files::entries(&self.images())?;
        Ok(directories.iter().map(|directory| image::read_metadata(directory)).collect())
    }

    /// An image that is there, held in use.
    ///
    /// # Errors
    /// [`Error::Absent`] if it is not there, [`Error::Image`] if another version built it.
    pub fn get(&self, name: ImageName) -> Result<ImageHandle, Error> {
        let directory = self.images().join(name.directory());
        let path = directory.join(image::METADATA);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Error::Absent(name)),
            opened => opened.map_err(files::at("opening", &path))?,
        };
        let opened = file.metadata().map_err(files::at("inspecting", &path))?.ino();
        let Some(lock) = lock::attempt_file(file, &path, FlockOperation::NonBlockingLockShared)? else {
            // Only a removal excludes readers, and it is past asking.
            return Err(Error::Absent(name));
        };
        // The lock counts for the file it was taken on. Whoever removed that one moved it away first.
        if !fs::metadata(&path).is_ok_and(|current| current.ino() == opened) {
            return Err(Error::Absent(name));
        }
        Ok(ImageHandle { name, metadata: image::read_metadata(&directory)?, directory, _lock: lock })
    }

    /// An image, held in use, built first if it is not there, or anew if an older version built it. If another process is
    /// building, waits for it.
    ///
    /// # Errors
    /// [`Error::Build`] if it cannot be built; nothing of it remains then but a log. As [`remove`](Self::remove) says, if
    /// an older image cannot be removed.
    pub fn ensure(&self, name: ImageName, progress: &dyn Progress) -> Result<ImageHandle, Error> {
        self.ensure_with(name, progress, |workplace, log| debian::build(name, workplace, log, progress))
    }

    /// The image `base` once more, but with this file as its root disk, for a store that has it under no such name
    /// yet. The disk stays where it is and must not be written to from then on.
    ///
    /// # Errors
    /// [`Error::Build`] if it cannot be made, as when the disk is on another file system than the store.
    pub fn variant(
        &self,
        base: &ImageHandle,
        root: &Path,
        progress: &dyn Progress,
    ) -> Result<ImageHandle, Error> {
        self.ensure_with(base.name, progress, |workplace, _| {
            let disk = workplace.join(image::ROOT);
            fs::hard_link(root, &disk).map_err(files::at("linking", root))?;
            for name in [image::KERNEL, image::MODULES, image::METADATA] {
                let file = base.directory.join(name);
                fs::copy(&file, workplace.join(name)).map_err(files::at("copying", &file))?;
            }
            Ok(())
        })
    }

    fn ensure_with(
        &self,
        name: ImageName,
        progress: &dyn Progress,
        build: impl FnOnce(&Path, &Path) -> Result<(), debian::Error>,
    ) -> Result<ImageHandle, Error> {
        let is_wanted = |found: &Result<ImageHandle, Error>| match found {
            Err(Error::Absent(_)) => true,
            Err(Error::Image(image::Error::Format { format, .. })) => *format < image::FORMAT,
            _ => false,
        };
        let found = self.get(name);
        if !is_wanted(&found) {
            return found;
        }
        let lock = self.lock(progress)?;
        // Somebody else may have been faster.
        let found = self.get(name);
        if !is_wanted(&found) {
            return found;
        }
        if !matches!(found, Err(Error::Absent(_))) {
            self.remove_locked(name, &lock)?;
        }
        let workplace = self.building().join(name.directory());
        files::create_dir_all(&workplace)?;
        let built = build(&workplace, &self.logs().join(name.directory()))
            .map_err(|source| Error::Build { name, source: Box::new(source) })
            .and_then(|()| Ok(files::rename(&workplace, &self.images().join(name.directory()))?));
        if let Err(error) = built {
            if let Err(leftover) = files::remove_tree(&workplace) {
                tracing::warn!("{leftover}");
            }
            return Err(error);
        }
        self.get(name)
    }

    /// Removes an image.
    ///
    /// # Errors
    /// [`Error::InUse`] while guests run from it, [`Error::Kept`] while kept disks build on it,
    /// [`Error::Absent`] if it is not there.
    pub fn remove(&self, name: ImageName, progress: &dyn Progress) -> Result<(), Error> {
        self.remove_locked(name, &self.lock(progress)?)
    }

    fn remove_locked(&self, name: ImageName, _lock: &Lock) -> Result<(), Error> {
        let directory = self.images().join(name.directory());
        let path = directory.join(image::METADATA);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Error::Absent(name)),
            opened => opened.map_err(files::at("opening", &path))?,
        };
        let Some(_exclusive) = lock::attempt_file(file, &path, FlockOperation::NonBlockingLockExclusive)?
        else {
            return Err(Error::InUse(name));
        };
        let kept: Vec<String> = self
            .kept()?
            .into_iter()
            .filter(|record| record.image == name.to_string())
            .map(|record| record.name)
            .collect();
        if !kept.is_empty() {
            return Err(Error::Kept { image: name, kept });
        }
        let grave = self.building().join(name.directory());
        files::rename(&directory, &grave)?;
        Ok(files::remove_tree(&grave)?)
    }

    /// The directory of kept disks.
    pub(crate) fn instances(&self) -> PathBuf {
        self.root.join("instances")
    }

    /// Takes the lock that every change of the store needs, and clears away leftovers.
    fn lock(&self, progress: &dyn Progress) -> Result<Lock, Error> {
        let lock = lock::exclusive(&self.build_lock(), progress)?;
        self.sweep()?;
        Ok(lock)
    }

    /// Removes what is left of builds whose process is gone. Needs the lock.
    fn sweep(&self) -> Result<(), files::Error> {
        files::entries(&self.building())?.iter().try_for_each(|leftover| files::remove_tree(leftover))
    }

    fn build_lock(&self) -> PathBuf {
        self.root.join("build.lock")
    }

    fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    fn building(&self) -> PathBuf {
        self.root.join("building")
    }

    fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use tempfile::TempDir;

    use super::*;
    use crate::progress::{Silent, Stage};

    fn store() -> (TempDir, Store, ImageName) {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open_at(home.path()).unwrap();
        (home, store, "debian".parse().unwrap())
    }

    fn fake(directory: &Path) -> Result<(), debian::Error> {
        fake_of(directory, image::FORMAT)
    }

    fn fake_of(directory: &Path, format: u32) -> Result<(), debian::Error> {
        let metadata = Metadata {
            format,
            name: "debian:bookworm".into(),
            suite: "bookworm".into(),
            kernel_version: "6.1".into(),
            created: 1,
            root_size: 2,
            stored_size: 3,
        };
        files::write(&directory.join(image::KERNEL), b"kernel")?;
        files::write(&directory.join(image::MODULES), b"modules")?;
        files::write(&directory.join(image::METADATA), &serde_json::to_vec(&metadata).unwrap())?;
        Ok(())
    }

    #[test]
    fn an_image_is_built_once_listed_and_removed() {
        let (_home, store, name) = store();
        assert!(matches!(store.get(name), Err(Error::Absent(_))));
        store.ensure_with(name, &Silent, |directory, _| fake(directory)).unwrap();
        store.ensure_with(name, &Silent, |_, _| panic!("it is there already")).unwrap();
        assert_eq!(store.list().unwrap().len(), 1);
        store.remove(name, &Silent).unwrap();
        assert!(store.list().unwrap().is_empty());
        assert!(matches!(store.remove(name, &Silent), Err(Error::Absent(_))));
    }

    #[test]
    fn an_older_image_is_built_anew_and_a_newer_one_refused() {
        let (_home, store, name) = store();
        let place = store.images().join(name.directory());
        let put = |format| {
            files::create_dir_all(&place).unwrap();
            fake_of(&place, format).unwrap();
        };
        put(image::FORMAT - 1);
        let refused = store.get(name).unwrap_err();
        assert!(refused.to_string().contains("viv image rm debian:bookworm"), "{refused}");
        let image = store.ensure_with(name, &Silent, |directory, _| fake(directory)).unwrap();
        assert_eq!(image.metadata().format, image::FORMAT);
        drop(image);
        put(image::FORMAT + 1);
        let refused = store.ensure_with(name, &Silent, |_, _| panic!("it is there")).unwrap_err();
        assert!(matches!(refused, Error::Image(image::Error::Format { .. })));
    }

    #[test]
    fn a_variant_has_another_disk_and_is_the_same_otherwise() {
        let (_home, store, name) = store();
        let base = store.ensure_with(name, &Silent, |directory, _| fake(directory)).unwrap();
        let home = tempfile::tempdir().unwrap();
        let disk = home.path().join("disk");
        files::write(&disk, b"disk").unwrap();
        let other = Store::open_at(&home.path().join("store")).unwrap();
        let variant = other.variant(&base, &disk, &Silent).unwrap();
        assert_eq!((variant.name(), variant.metadata()), (name, base.metadata()));
        assert_eq!(files::read(&variant.root()).unwrap(), b"disk");
        assert_eq!(files::read(&variant.kernel()).unwrap(), b"kernel");
        assert_eq!(variant.initrd(b"init").unwrap(), base.initrd(b"init").unwrap());
    }

    #[test]
    fn a_failed_build_leaves_nothing() {
        let (_home, store, name) = store();
        let error = store
            .ensure_with(name, &Silent, |directory, _| {
                fake(directory)?;
                Err(debian::Error::NotRoot)
            })
            .unwrap_err();
        assert!(matches!(error, Error::Build { .. }));
        assert!(store.list().unwrap().is_empty());
        assert!(files::entries(&store.building()).unwrap().is_empty());
    }

    #[test]
    fn leftovers_of_a_killed_build_are_removed_unless_somebody_builds() {
        let (home, store, _) = store();
        let leftover = store.building().join("debian-bookworm");
        files::create_dir_all(&leftover.join("root")).unwrap();
        let lock = lock::exclusive(&store.build_lock(), &Silent).unwrap();
        Store::open_at(home.path()).unwrap();
        assert!(leftover.exists());
        drop(lock);
        Store::open_at(home.path()).unwrap();
        assert!(!leftover.exists());
    }

    #[test]
    fn an_image_in_use_cannot_be_removed() {
        let (_home, store, name) = store();
        let image = store.ensure_with(name, &Silent, |directory, _| fake(directory)).unwrap();
        assert!(matches!(store.remove(name, &Silent), Err(Error::InUse(_))));
        drop(image);
        store.remove(name, &Silent).unwrap();
    }

    #[test]
    fn the_second_builder_says_that_it_waits_and_finds_the_image() {
        struct Told(mpsc::Sender<Stage>);
        impl Progress for Told {
            fn begin(&self, stage: Stage) {
                self.0.send(stage).unwrap();
            }
            fn advance(&self, _: Stage, _: f64) {}
            fn end(&self, _: Stage) {}
            fn note(&self, _: &str) {}
        }
        let (_home, store, name) = store();
        let (told, heard) = mpsc::channel();
        thread::scope(|scope| {
            store
                .ensure_with(name, &Silent, |directory, _| {
                    let store = &store;
                    scope.spawn(move || {
                        let never = |_: &Path, _: &Path| panic!("the first one builds");
                        store.ensure_with(name, &Told(told), never).unwrap();
                    });
                    assert_eq!(heard.recv().unwrap(), Stage::Waiting);
                    fake(directory)
                })
                .unwrap();
        });
    }

    #[test]
    fn another_layout_is_refused() {
        let (home, _, _) = store();
        files::write(&home.path().join("version"), b"99\n").unwrap();
        assert!(matches!(Store::open_at(home.path()), Err(Error::Layout { .. })));
    }
}
