//! Tables of an image that are in memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// A table.
#[derive(Debug)]
struct Table {
    bytes: Box<[u8]>,
    /// When it was used last, by the cache's clock.
    used: AtomicU64,
    dirty: bool,
}

/// Tables by a number, such as their offset in the file, of which so many are kept.
#[derive(Debug)]
pub(crate) struct Cache {
    tables: HashMap<u64, Table>,
    capacity: usize,
    dirty: usize,
    clock: AtomicU64,
}

impl Cache {
    /// One that takes about `bytes`.
    pub(crate) fn new(bytes: u64, table_size: u64) -> Self {
        let capacity = crate::bytes::index(bytes.checked_div(table_size).unwrap_or(0).clamp(8, 8192));
        Self { tables: HashMap::new(), capacity, dirty: 0, clock: AtomicU64::new(0) }
    }

    pub(crate) fn contains(&self, key: u64) -> bool {
        self.tables.contains_key(&key)
    }

    pub(crate) fn get(&self, key: u64) -> Option<&[u8]> {
        let table = self.tables.get(&key)?;
        table.used.store(self.clock.load(Ordering::Relaxed), Ordering::Relaxed);
        Some(&table.bytes)
    }

    /// A table that is going to be changed.
    pub(crate) fn get_mut(&mut self, key: u64) -> Option<&mut [u8]> {
        let table = self.tables.get_mut(&key)?;
        if !table.dirty {
            table.dirty = true;
            self.dirty = self.dirty.saturating_add(1);
        }
        Some(&mut table.bytes)
    }

    /// Takes a table in, as the file has it.
    pub(crate) fn insert(&mut self, key: u64, bytes: Vec<u8>) {
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        let table = Table { bytes: bytes.into(), used: now.saturating_add(1).into(), dirty: false };
        self.remove(key);
        self.tables.insert(key, table);
    }

    /// Takes a table in that the file does not have yet.
    pub(crate) fn insert_new(&mut self, key: u64, bytes: Vec<u8>) {
        self.insert(key, bytes);
        self.get_mut(key);
    }

    pub(crate) fn remove(&mut self, key: u64) {
        if self.tables.remove(&key).is_some_and(|table| table.dirty) {
            self.dirty = self.dirty.saturating_sub(1);
        }
    }

    /// Whether there is room for another table, after the tables that were not used for the longest time are
    /// forgotten. There is none while most are not in the file.
    pub(crate) fn make_room(&mut self) -> bool {
        if self.tables.len() < self.capacity {
            return true;
        }
        if self.dirty > self.capacity / 2 {
            return false;
        }
        let mut clean: Vec<(u64, u64)> = (self.tables.iter())
            .filter(|(_, table)| !table.dirty)
            .map(|(key, table)| (table.used.load(Ordering::Relaxed), *key))
            .collect();
        clean.sort_unstable();
        for (_, key) in clean.iter().take((self.capacity / 8).max(1)) {
            self.tables.remove(key);
        }
        true
    }

    pub(crate) fn is_dirty(&self) -> bool {
        self.dirty > 0
    }

    /// The tables that the file does not have yet, in the order of their numbers.
    pub(crate) fn dirty(&self) -> Vec<(u64, &[u8])> {
        if self.dirty == 0 {
            return Vec::new();
        }
        let dirty = self.tables.iter().filter(|(_, table)| table.dirty);
        let mut dirty: Vec<_> = dirty.map(|(key, table)| (*key, &*table.bytes)).collect();
        dirty.sort_unstable_by_key(|(key, _)| *key);
        dirty
    }

    /// Says that the file has all of them.
    pub(crate) fn written(&mut self) {
        if self.dirty > 0 {
            self.tables.values_mut().for_each(|table| table.dirty = false);
            self.dirty = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_file_does_not_have_is_not_forgotten() {
        let mut cache = Cache::new(0, 512);
        for key in 0..5 {
            cache.insert_new(key, vec![1]);
        }
        for key in 5..8 {
            cache.insert(key, vec![0]);
        }
        assert!(!cache.make_room());
        assert_eq!(cache.dirty().len(), 5);
        cache.written();
        cache.get(0);
        assert!(cache.make_room());
        assert!(cache.contains(0) && cache.tables.len() < 8 && !cache.is_dirty());
    }
}
