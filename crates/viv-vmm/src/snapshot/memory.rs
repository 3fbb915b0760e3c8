//! The pages of a snapshot.

use std::io::{Read, Write};

use viv_engine::GuestMemory;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::{SnapshotError, read_array};

const PAGE: usize = 4096;
/// How many pages go into one run at most.
const MAX_RUN: usize = 256;

/// Which pages of RAM were ever written: all others are zero.
#[derive(Debug, Default)]
pub(crate) struct PageSet {
    words: Vec<u64>,
}

impl PageSet {
    /// Adds pages by number.
    pub(crate) fn extend(&mut self, pages: impl IntoIterator<Item = u64>) {
        for page in pages {
            let Ok(word) = usize::try_from(page / 64) else { continue };
            if word >= self.words.len() {
                self.words.resize(word + 1, 0);
            }
            if let Some(word) = self.words.get_mut(word) {
                *word |= 1 << (page % 64);
            }
        }
    }

    /// The pages in ascending order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u64> {
        self.words.iter().zip(0_u64..).flat_map(|(&word, index)| {
            (0..64).filter(move |bit| word & (1 << bit) != 0).map(move |bit| index * 64 + bit)
        })
    }
}

/// Writes those of `pages` that are not zero, and the end mark. `pages` ascend and lie in RAM.
pub(crate) fn write_pages(
    out: &mut impl Write,
    memory: &GuestMemory,
    pages: impl Iterator<Item = u64>,
) -> Result<(), SnapshotError> {
    let mut run = Run::default();
    let mut total = 0;
    let mut content = [0; PAGE];
    for page in pages {
        memory
            .read_slice(&mut content, GuestAddress(page * PAGE as u64))
            .map_err(|_| SnapshotError::Damaged("a page to be saved is not RAM"))?;
        if content.iter().all(|&byte| byte == 0) {
            continue;
        }
        total += 1;
        if !run.takes(page) {
            run.write(out)?;
            run.first = page;
        }
        run.content.extend_from_slice(&content);
    }
    run.write(out)?;
    write_mark(out, total, 0)
}

/// Successive pages.
#[derive(Default)]
struct Run {
    first: u64,
    content: Vec<u8>,
}

impl Run {
    fn length(&self) -> usize {
        self.content.len() / PAGE
    }

    /// Whether `page` comes next and there is room.
    fn takes(&self, page: u64) -> bool {
        let length = self.length();
        (1..MAX_RUN).contains(&length) && self.first + length as u64 == page
    }

    /// Writes it, unless it is empty, and empties it.
    fn write(&mut self, out: &mut impl Write) -> Result<(), SnapshotError> {
        if self.content.is_empty() {
            return Ok(());
        }
        write_mark(out, self.first, u32::try_from(self.length()).unwrap_or(u32::MAX))?;
        out.write_all(&self.content).map_err(SnapshotError::io("write"))?;
        self.content.clear();
        Ok(())
    }
}

fn write_mark(out: &mut impl Write, number: u64, length: u32) -> Result<(), SnapshotError> {
    out.write_all(&number.to_le_bytes())
        .and_then(|()| out.write_all(&length.to_le_bytes()))
        .map_err(SnapshotError::io("write"))
}

/// Reads pages up to the end mark into `memory`, which is zero.
pub(crate) fn read_pages(input: &mut impl Read, memory: &GuestMemory) -> Result<(), SnapshotError> {
    let mut content = vec![0; MAX_RUN * PAGE];
    let mut next = 0;
    let mut total = 0_u64;
    loop {
        let first = u64::from_le_bytes(read_array(input)?);
        let length = u32::from_le_bytes(read_array(input)?);
        if length == 0 {
            return if first == total { Ok(()) } else { Err(SnapshotError::Damaged("pages are missing")) };
        }
        let bytes = usize::try_from(length)
            .ok()
            .and_then(|length| length.checked_mul(PAGE))
            .and_then(|length| content.get_mut(..length))
            .ok_or(SnapshotError::Damaged("a run of pages is too long"))?;
        if first < next {
            return Err(SnapshotError::Damaged("pages are out of order"));
        }
        let address = first
            .checked_mul(PAGE as u64)
            .map(GuestAddress)
            .filter(|&address| memory.check_range(address, bytes.len()))
            .ok_or(SnapshotError::Damaged("a page lies outside RAM"))?;
        input.read_exact(bytes).map_err(SnapshotError::io("read"))?;
        memory.write_slice(bytes, address).map_err(|_| SnapshotError::Damaged("a page lies outside RAM"))?;
        next = first + u64::from(length);
        total += u64::from(length);
    }
}
