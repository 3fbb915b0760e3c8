//! A file in memory that records what reaches it, and what is left of it when the power fails.

use std::path::Path;
use std::sync::{Arc, Mutex};

use super::Random;
use crate::DiskError;
use crate::storage::Storage;

/// What disks write whole or not at all.
const SECTOR: usize = 512;

#[derive(Debug, Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Discard(u64, u64),
    Length(u64),
    Sync,
}

#[derive(Debug, Default)]
struct Contents {
    bytes: Vec<u8>,
    log: Vec<Change>,
    keeps_space: bool,
}

/// The file; clones are the same one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recorder(Arc<Mutex<Contents>>);

impl Recorder {
    pub(crate) fn holding(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(Contents { bytes, ..Contents::default() })))
    }

    /// Refuses to give space back from here on.
    pub(crate) fn keep_space(&self) {
        self.0.lock().unwrap().keeps_space = true;
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().bytes.clone()
    }

    /// How many changes there were.
    pub(crate) fn changes(&self) -> usize {
        self.0.lock().unwrap().log.len()
    }

    /// What is left if the power fails after so many changes to a file that held `before`: all that was synced, and of
    /// the rest any sectors.
    pub(crate) fn after_cut(&self, before: &[u8], changes: usize, random: &mut Random) -> Vec<u8> {
        let log = &self.0.lock().unwrap().log[..changes];
        let synced = log.iter().rposition(|change| matches!(change, Change::Sync)).unwrap_or(0);
        // How much of what was not synced gets through: nothing, everything, or something between.
        let odds = random.below(5);
        let mut bytes = before.to_vec();
        for (number, change) in log.iter().enumerate() {
            let mut stays = || number <= synced || random.below(4) < odds;
            match change {
                Change::Write(offset, data) => {
                    let mut at = *offset as usize;
                    let mut rest = data.as_slice();
                    while !rest.is_empty() {
                        let (piece, behind) = rest.split_at((SECTOR - at % SECTOR).min(rest.len()));
                        if stays() {
                            write(&mut bytes, at, piece);
                        }
                        at += piece.len();
                        rest = behind;
                    }
                }
                Change::Discard(offset, length) if stays() => discard(&mut bytes, *offset, *length),
                Change::Length(length) if stays() => bytes.resize(*length as usize, 0),
                Change::Discard(..) | Change::Length(_) | Change::Sync => {}
            }
        }
        bytes
    }

    fn change(&self, change: Change) -> Result<(), DiskError> {
        let Contents { bytes, log, .. } = &mut *self.0.lock().unwrap();
        match &change {
            Change::Write(offset, data) => write(bytes, *offset as usize, data),
            Change::Discard(offset, length) => discard(bytes, *offset, *length),
            Change::Length(length) => bytes.resize(*length as usize, 0),
            Change::Sync => {}
        }
        log.push(change);
        Ok(())
    }
}

fn write(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    bytes.resize(bytes.len().max(offset + data.len()), 0);
    bytes[offset..offset + data.len()].copy_from_slice(data);
}

fn discard(bytes: &mut [u8], offset: u64, length: u64) {
    let end = (offset + length).min(bytes.len() as u64);
    bytes[(offset.min(end)) as usize..end as usize].fill(0);
}

impl Storage for Recorder {
    fn path(&self) -> &Path {
        Path::new("recorded")
    }

    fn length(&self) -> Result<u64, DiskError> {
        Ok(self.0.lock().unwrap().bytes.len() as u64)
    }

    fn set_length(&self, length: u64) -> Result<(), DiskError> {
        self.change(Change::Length(length))
    }

    fn read_some(&self, offset: u64, data: &mut [u8]) -> Result<usize, DiskError> {
        let contents = self.0.lock().unwrap();
        let there = contents.bytes.get(offset.min(1 << 40) as usize..).unwrap_or_default();
        let length = there.len().min(data.len());
        data[..length].copy_from_slice(&there[..length]);
        Ok(length)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        if offset + data.len() as u64 > 1 << 30 {
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(DiskError::io("write", self.path())(full));
        }
        self.change(Change::Write(offset, data.to_vec()))
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.change(Change::Sync)
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        if self.0.lock().unwrap().keeps_space {
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(DiskError::io("free space in", self.path())(full));
        }
        self.change(Change::Discard(offset, length))
    }

    fn write_zeroes(&self, offset: u64, length: u64, _may_unmap: bool) -> Result<(), DiskError> {
        // What lies behind the end is zeroes already.
        self.change(Change::Discard(offset, length))
    }
}
