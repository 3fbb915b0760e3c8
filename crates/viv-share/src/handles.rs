//! What the guest has open.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

/// An open file or directory.
#[derive(Debug)]
pub(crate) struct Handle {
    /// The number of its node.
    node: u64,
    file: OwnedFd,
    /// Held while the offset in a directory counts.
    offset: Mutex<()>,
}

/// What the guest has open, by the numbers that it was told (`fh`).
#[derive(Debug)]
pub(crate) struct Handles {
    table: Mutex<Table>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Table {
    open: HashMap<u64, Arc<Handle>>,
    last: u64,
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Handle {
    /// Keeps others from moving the offset.
    pub(crate) fn offset(&self) -> MutexGuard<'_, ()> {
        self.offset.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handles {
    /// Room for `limit` of them.
    pub(crate) fn new(limit: usize) -> Self {
        Self { table: Mutex::default(), limit }
    }

    /// Takes what was opened of a node, and returns its number.
    pub(crate) fn add(&self, node: u64, file: OwnedFd) -> Result<u64, Errno> {
        let mut table = self.table();
        if table.open.len() >= self.limit {
            return Err(Errno::NFILE);
        }
        table.last = table.last.saturating_add(1);
        let number = table.last;
        table.open.insert(number, Arc::new(Handle { node, file, offset: Mutex::default() }));
        Ok(number)
    }

    /// What is open of `node` under this number.
    pub(crate) fn get(&self, number: u64, node: u64) -> Result<Arc<Handle>, Errno> {
        self.table().open.get(&number).filter(|handle| handle.node == node).cloned().ok_or(Errno::BADF)
    }

    /// Closes it, once nobody uses it.
    pub(crate) fn remove(&self, number: u64, node: u64) -> Result<(), Errno> {
        let mut table = self.table();
        if table.open.get(&number).is_none_or(|handle| handle.node != node) {
            return Err(Errno::BADF);
        }
        table.open.remove(&number);
        Ok(())
    }

    /// Closes all.
    pub(crate) fn clear(&self) {
        self.table().open.clear();
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
