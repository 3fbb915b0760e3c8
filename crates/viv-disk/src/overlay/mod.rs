//! A base that is only read, under a sparse file that takes the changes.
//!
//! The disk is cut into clusters of 64 KiB. A cluster is either wholly in the overlay or wholly in the base; a
//! bitmap says which. The first change to a cluster copies it up.
//!
//! The file holds a header page (see `header.rs`), the bitmap from offset 4096 in whole pages, and from the
//! next multiple of 64 KiB each cluster at its own place: cluster `n` at `n` times 64 KiB. What is not written
//! is a hole, so the file takes the space of the changes.
//!
//! A *kept* overlay survives: [`Disk::flush`] makes the clusters durable first and the bitmap after them, so
//! that at no moment the durable bitmap names a cluster whose contents are not there. What was not flushed
//! may be lost with the process, as it is with a real disk's cache when the power fails; whole clusters return
//! to the state of the last flush or later. A *throw-away* overlay has no name, and neither bitmap nor flushes
//! reach its file: it is gone with the process, whatever its end.

mod bitmap;
mod header;
mod layout;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::file::DiskFile;
use crate::raw::RawDisk;
use crate::{Disk, DiskError, check_range, length_of};
use bitmap::Bitmap;
use header::Header;
use layout::{BITMAP, CLUSTER, Layout, PAGE, Piece};

/// A disk with copy-on-write over a base.
#[derive(Debug)]
pub struct OverlayDisk {
    base: RawDisk,
    file: DiskFile,
    layout: Layout,
    /// Held for the whole of a call, so that no change is seen half done.
    present: RwLock<Bitmap>,
    kept: bool,
}

impl OverlayDisk {
    /// A throw-away overlay; its file, without a name, takes space in `directory`.
    ///
    /// # Errors
    /// When `base` can be written, or the file cannot be made.
    pub fn throw_away(base: RawDisk, directory: &Path) -> Result<Self, DiskError> {
        let layout = Self::layout(&base)?;
        let file = tempfile::tempfile_in(directory).map_err(DiskError::io("make a throw-away", directory))?;
        let file = DiskFile::from_file(file, directory, true)?;
        file.set_length(layout.file_length())?;
        let present = RwLock::new(Bitmap::new(empty_bitmap(layout)));
        Ok(Self { base, file, layout, present, kept: false })
    }

    /// Makes a kept overlay at `path`. The file appears there complete, or not at all.
    ///
    /// # Errors
    /// When `base` can be written, something is at `path` already, or the file cannot be made.
    pub fn create(base: RawDisk, path: &Path) -> Result<Self, DiskError> {
        let layout = Self::layout(&base)?;
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let file = tempfile::NamedTempFile::new_in(directory).map_err(DiskError::io("make", path))?;
        let (file, name) = file.into_parts();
        let file = DiskFile::from_file(file, path, true)?;
        file.set_length(layout.file_length())?;
        file.write_at(0, &Self::header_for(&base)?.encode())?;
        file.sync()?;
        name.persist_noclobber(path).map_err(|error| DiskError::io("name", path)(error.error))?;
        let synced = std::fs::File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(DiskError::io("make durable the name of", path))?;
        let present = RwLock::new(Bitmap::new(empty_bitmap(layout)));
        Ok(Self { base, file, layout, present, kept: true })
    }

    /// Opens a kept overlay.
    ///
    /// # Errors
    /// When `base` can be written, is not the one that the overlay was made on, or changed since; when the
    /// file is in use, is no overlay, or is damaged.
    pub fn open(base: RawDisk, path: &Path) -> Result<Self, DiskError> {
        let layout = Self::layout(&base)?;
        let file = DiskFile::open(path, true)?;
        let bad = |reason: String| DiskError::BadOverlay { path: path.to_owned(), reason };
        let length = file.length()?;
        if length < header::LENGTH as u64 {
            return Err(bad(format!("it has only {length} bytes")));
        }
        let mut page = [0; header::LENGTH];
        file.read_at(0, &mut page)?;
        let found = Header::decode(&page).map_err(bad)?;
        let expected = Self::header_for(&base)?;
        if found != expected {
            let what = if found.size == expected.size {
                "its time of change is another".to_owned()
            } else {
                format!("it had {} bytes and has {}", found.size, expected.size)
            };
            let base = base.file().path().to_owned();
            return Err(DiskError::BaseChanged { path: path.to_owned(), base, what });
        }
        if length != layout.file_length() {
            return Err(bad(format!("it has {length} bytes instead of {}", layout.file_length())));
        }
        let mut bytes = empty_bitmap(layout);
        file.read_at(BITMAP, &mut bytes)?;
        Ok(Self { base, file, layout, present: RwLock::new(Bitmap::new(bytes)), kept: true })
    }

    fn layout(base: &RawDisk) -> Result<Layout, DiskError> {
        if !base.read_only() {
            // The lock of a reader is what keeps the base as it is.
            return Err(DiskError::BaseNotReadOnly { base: base.file().path().to_owned() });
        }
        Layout::for_base(base)
    }

    fn header_for(base: &RawDisk) -> Result<Header, DiskError> {
        Ok(Header { size: base.size(), modified: base.file().modified()? })
    }

    fn in_file(&self, piece: Piece) -> u64 {
        self.layout.in_file(piece.cluster).saturating_add(piece.within)
    }

    fn is_whole(&self, piece: Piece) -> bool {
        piece.length == self.layout.length_of(piece.cluster)
    }

    fn present(&self) -> RwLockReadGuard<'_, Bitmap> {
        self.present.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn present_mut(&self) -> RwLockWriteGuard<'_, Bitmap> {
        self.present.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings a cluster into the overlay, unless it is there.
    fn copy_up(
        &self,
        present: &mut Bitmap,
        cluster: u64,
        change: impl FnOnce(&mut [u8]),
    ) -> Result<(), DiskError> {
        let mut contents = vec![0; CLUSTER as usize];
        contents.truncate(usize::try_from(self.layout.length_of(cluster)).unwrap_or(0));
        self.base.read_at(Layout::on_disk(cluster), &mut contents)?;
        change(&mut contents);
        self.file.write_at(self.layout.in_file(cluster), &contents)?;
        present.insert(cluster);
        Ok(())
    }

    fn write_piece(&self, present: &mut Bitmap, piece: Piece, data: &[u8]) -> Result<(), DiskError> {
        if present.contains(piece.cluster) {
            return self.file.write_at(self.in_file(piece), data);
        }
        if self.is_whole(piece) {
            self.file.write_at(self.in_file(piece), data)?;
            present.insert(piece.cluster);
            return Ok(());
        }
        self.copy_up(present, piece.cluster, |contents| {
            if let Some(part) = part_of(contents, piece) {
                part.copy_from_slice(data);
            }
        })
    }

    fn zero_piece(&self, present: &mut Bitmap, piece: Piece, may_unmap: bool) -> Result<(), DiskError> {
        if present.contains(piece.cluster) || self.is_whole(piece) {
            // Also where the cluster is new: a crash may have left something in its place.
            self.file.write_zeroes(self.in_file(piece), piece.length, may_unmap)?;
            present.insert(piece.cluster);
            return Ok(());
        }
        self.copy_up(present, piece.cluster, |contents| {
            if let Some(part) = part_of(contents, piece) {
                part.fill(0);
            }
        })
    }
}

/// The bytes of `piece` in its cluster's contents.
fn part_of(contents: &mut [u8], piece: Piece) -> Option<&mut [u8]> {
    let begin = usize::try_from(piece.within).ok()?;
    let length = usize::try_from(piece.length).ok()?;
    contents.get_mut(begin..)?.get_mut(..length)
}

fn empty_bitmap(layout: Layout) -> Vec<u8> {
    vec![0; usize::try_from(layout.bitmap_length).unwrap_or(PAGE as usize)]
}

impl Disk for OverlayDisk {
    fn size(&self) -> u64 {
        self.base.size()
    }

    fn read_only(&self) -> bool {
        false
    }

    fn read_at(&self, offset: u64, mut data: &mut [u8]) -> Result<(), DiskError> {
        check_range(offset, length_of(data), self.size())?;
        let present = self.present();
        for piece in Layout::pieces(offset, length_of(data)) {
            let length = usize::try_from(piece.length).unwrap_or(usize::MAX);
            let Some((part, rest)) = data.split_at_mut_checked(length) else { break };
            if present.contains(piece.cluster) {
                self.file.read_at(self.in_file(piece), part)?;
            } else {
                self.base.read_at(Layout::on_disk(piece.cluster).saturating_add(piece.within), part)?;
            }
            data = rest;
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, mut data: &[u8]) -> Result<(), DiskError> {
        check_range(offset, length_of(data), self.size())?;
        let present = &mut *self.present_mut();
        for piece in Layout::pieces(offset, length_of(data)) {
            let length = usize::try_from(piece.length).unwrap_or(usize::MAX);
            let Some((part, rest)) = data.split_at_checked(length) else { break };
            self.write_piece(present, piece, part)?;
            data = rest;
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), DiskError> {
        if !self.kept {
            return Ok(());
        }
        let mut present = self.present_mut();
        self.file.sync()?;
        if present.is_changed() {
            for (at, page) in present.changed() {
                self.file.write_at(BITMAP.saturating_add(at), page)?;
            }
            self.file.sync()?;
            present.written();
        }
        Ok(())
    }

    /// Only what is in the overlay is given back: the base keeps what it has, and keeps showing it.
    fn discard(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        check_range(offset, length, self.size())?;
        let present = self.present();
        for piece in Layout::pieces(offset, length) {
            if present.contains(piece.cluster) {
                self.file.discard(self.in_file(piece), piece.length)?;
            }
        }
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, length: u64, may_unmap: bool) -> Result<(), DiskError> {
        check_range(offset, length, self.size())?;
        let present = &mut *self.present_mut();
        for piece in Layout::pieces(offset, length) {
            self.zero_piece(present, piece, may_unmap)?;
        }
        Ok(())
    }
}
