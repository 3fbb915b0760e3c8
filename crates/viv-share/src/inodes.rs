//! The files that the guest knows: each is held by a descriptor from when it is looked up until it is forgotten.
//!
//! A descriptor names a file, not a path (`O_PATH`): what others rename or put in its place makes no difference to it.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use crate::fuse::abi::ROOT;

/// A file that the guest knows.
#[derive(Debug)]
pub(crate) struct Inode {
    /// Its number in the protocol (`nodeid`).
    pub(crate) id: u64,
    /// What it is.
    pub(crate) kind: FileType,
    file: OwnedFd,
}

/// The files that the guest knows.
#[derive(Debug)]
pub(crate) struct Inodes {
    table: Mutex<Table>,
    root: Arc<Inode>,
    /// The device that the root is on.
    device: u64,
    limit: usize,
}

/// A file's device and number on it.
type Place = (u64, u64);

#[derive(Debug, Default)]
struct Table {
    known: HashMap<u64, Known>,
    numbers: HashMap<Place, u64>,
    last: u64,
}

#[derive(Debug)]
struct Known {
    inode: Arc<Inode>,
    place: Place,
    /// How often the guest was told of it, which it takes back by forgetting it.
    lookups: u64,
}

impl AsFd for Inode {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Inodes {
    /// The directory that is open by `root`, and up to `limit` files below.
    pub(crate) fn new(root: OwnedFd, limit: usize) -> Result<Self, Errno> {
        let stat = rustix::fs::fstat(&root)?;
        let root = Inode { id: ROOT, kind: FileType::from_raw_mode(stat.st_mode), file: root };
        let table = Mutex::new(Table { last: ROOT, ..Table::default() });
        Ok(Self { table, root: Arc::new(root), device: stat.st_dev, limit })
    }

    /// The file with this number.
    pub(crate) fn get(&self, id: u64) -> Result<Arc<Inode>, Errno> {
        if id == ROOT {
            return Ok(self.root.clone());
        }
        self.table().known.get(&id).map(|known| known.inode.clone()).ok_or(Errno::STALE)
    }

    /// Counts a lookup of the file that is open by `file`.
    pub(crate) fn look_up(&self, file: OwnedFd, stat: &Stat) -> Result<Arc<Inode>, Errno> {
        let place = (stat.st_dev, stat.st_ino);
        let mut table = self.table();
        if let Some(id) = table.numbers.get(&place).copied()
            && let Some(known) = table.known.get_mut(&id)
        {
            known.lookups = known.lookups.saturating_add(1);
            return Ok(known.inode.clone());
        }
        if table.known.len() >= self.limit {
            return Err(Errno::NFILE);
        }
        table.last = table.last.saturating_add(1);
        let id = table.last;
        let inode = Arc::new(Inode { id, kind: FileType::from_raw_mode(stat.st_mode), file });
        table.numbers.insert(place, id);
        table.known.insert(id, Known { inode: inode.clone(), place, lookups: 1 });
        Ok(inode)
    }

    /// Takes `count` lookups back. With the last the file is unknown.
    pub(crate) fn forget(&self, id: u64, count: u64) {
        let mut table = self.table();
        let Some(known) = table.known.get_mut(&id) else { return };
        known.lookups = known.lookups.saturating_sub(count);
        if known.lookups == 0 {
            let place = known.place;
            table.numbers.remove(&place);
            table.known.remove(&id);
        }
    }

    /// Forgets all but the root.
    pub(crate) fn clear(&self) {
        let mut table = self.table();
        table.known.clear();
        table.numbers.clear();
    }

    /// How many are known beside the root.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.table().known.len()
    }

    /// A number of the file that no other file of the share has, those on other devices below it included as far as
    /// numbers go: the guest sees one device.
    pub(crate) fn number(&self, stat: &Stat) -> u64 {
        if stat.st_dev == self.device { stat.st_ino } else { stat.st_ino ^ stat.st_dev.rotate_right(16) }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
