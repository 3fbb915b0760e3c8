//! Which of guest RAM the host has memory for, and how it gets that back.
//!
//! RAM is a file in memory, mapped wherever it is reached from: the machine, the engine, its windows. A hole that is
//! punched into the file is one in all of these mappings at once, so nothing has to be mapped anew.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, fstat, seek};
use rustix::io::Errno;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap};

use super::{GuestMemory, PAGE_SHIFT, PageRecord, record};

const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;

/// Gives the pages that lie wholly in `range` back to the host. They read as zeros from then on, as if the guest had
/// cleared them, and cost memory again once they are touched. What of the range is not RAM is passed over. Large pages that
/// the host has set aside stay, for somebody else might have taken them when they are wanted again, and are cleared. Files of
/// others' are left alone.
///
/// # Errors
/// When the host does not take a page; then those before it are given back.
pub fn give_back(memory: &GuestMemory, range: Range<u64>) -> io::Result<()> {
    let Some(start) = range.start.checked_next_multiple_of(PAGE_SIZE) else { return Ok(()) };
    let end = range.end / PAGE_SIZE * PAGE_SIZE;
    for region in machines(memory) {
        let first = region.start_addr().0;
        let part = start.max(first)..end.min(first.saturating_add(region.len()));
        let Some(file) = region.file_offset().filter(|_| !part.is_empty()) else { continue };
        if record(region).is_set_aside() {
            clear(memory, part)?;
            continue;
        }
        let offset = file.start().saturating_add(part.start - first);
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(file.file(), flags, offset, part.end - part.start)?;
        // After it, as for every write: what was decoded meanwhile may be of what was there.
        for page in (part.start - first) / PAGE_SIZE..(part.end - first) / PAGE_SIZE {
            record(region).note_write(usize::try_from(page).unwrap_or(usize::MAX));
        }
    }
    Ok(())
}

/// The regions whose contents are the machine's own.
fn machines(memory: &GuestMemory) -> impl Iterator<Item = &GuestRegionMmap<PageRecord>> {
    memory.iter().filter(|region| record(region).is_machines())
}

/// Writes zeros.
fn clear(memory: &GuestMemory, range: Range<u64>) -> io::Result<()> {
    const ZEROS: [u8; PAGE_SIZE as usize] = [0; PAGE_SIZE as usize];
    range
        .step_by(ZEROS.len())
        .try_for_each(|at| memory.write_slice(&ZEROS, GuestAddress(at)).map_err(io::Error::other))
}

/// The guest-physical addresses of RAM that the host has memory for, in ascending order. All others read as zeros. A host that
/// does not tell has memory for all of them.
pub fn present(memory: &GuestMemory) -> impl Iterator<Item = Range<u64>> {
    machines(memory).flat_map(|region| {
        let start = region.start_addr().0;
        present_in(region).map(move |range| start + range.start..start + range.end)
    })
}

/// For how many bytes of RAM the host has memory. A host that does not tell has it for none.
#[must_use]
pub fn present_bytes(memory: &GuestMemory) -> u64 {
    let mut files: Vec<_> = machines(memory).filter_map(|region| Some(region.file_offset()?.arc())).collect();
    files.dedup_by(|one, other| Arc::ptr_eq(one, other));
    // `st_blocks` is in units of 512 bytes, whatever the file system's are (inode(7)).
    let blocks = |file: &Arc<File>| fstat(file).map_or(0, |stat| stat.st_blocks.unsigned_abs());
    files.into_iter().map(blocks).sum::<u64>().saturating_mul(512)
}

/// The same as [`present`] of one region, as offsets from its start.
pub fn present_in(region: &GuestRegionMmap<PageRecord>) -> impl Iterator<Item = Range<u64>> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let range = next_present(region, from)?;
        from = range.end;
        Some(range)
    })
}

/// The next range from offset `from` on.
fn next_present(region: &GuestRegionMmap<PageRecord>, from: u64) -> Option<Range<u64>> {
    let len = region.len();
    if from >= len {
        return None;
    }
    let Some(file) = region.file_offset() else { return Some(from..len) };
    let base = file.start();
    let start = match seek(file.file(), SeekFrom::Data(base + from)) {
        Ok(start) => start.saturating_sub(base),
        Err(Errno::NXIO) => return None,
        Err(_) => from,
    };
    let end = seek(file.file(), SeekFrom::Hole(base + start)).map_or(len, |end| end.saturating_sub(base));
    (start < len).then(|| start..end.min(len))
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::super::{VGA_END, VGA_START, allocate, take_dirty_pages};
    use super::*;

    /// The begin and end of each.
    fn ranges(memory: &GuestMemory) -> Vec<(u64, u64)> {
        present(memory).map(|range| (range.start, range.end)).collect()
    }

    #[test]
    fn a_page_given_back_reads_as_zeros_and_takes_no_memory() {
        let memory = allocate(2 << 20).unwrap();
        assert_eq!(ranges(&memory), []);
        memory.write_slice(&[7; 0x4000], GuestAddress(0x10_0000)).unwrap();
        assert_eq!(ranges(&memory), [(0x10_0000, 0x10_4000)]);
        assert_eq!(present_bytes(&memory), 0x4000);
        let region = memory.find_region(GuestAddress(0x10_0000)).unwrap();
        let page = ((0x10_1000 - region.start_addr().0) >> PAGE_SHIFT) as usize;
        record(region).note_code(page);
        let generation = record(region).generation(page);
        assert_eq!(take_dirty_pages(&memory), [0x100, 0x101, 0x102, 0x103]);

        // Pages that lie in the range in part are kept.
        give_back(&memory, 0x10_0fff..0x10_2001).unwrap();
        assert_eq!(ranges(&memory), [(0x10_0000, 0x10_1000), (0x10_2000, 0x10_4000)]);
        assert_eq!(take_dirty_pages(&memory), [0x101]);
        assert_ne!(record(region).generation(page), generation, "code of it is outdated");
        let mut content = [1; 0x2000];
        memory.read_slice(&mut content, GuestAddress(0x10_0800)).unwrap();
        assert!(content[..0x800].iter().all(|&byte| byte == 7));
        assert!(content[0x800..0x1800].iter().all(|&byte| byte == 0));
        assert!(content[0x1800..].iter().all(|&byte| byte == 7));
    }

    #[test]
    fn what_is_no_ram_is_passed_over() {
        let memory = allocate(1 << 20).unwrap();
        memory.write_slice(&[7; 0x1000], GuestAddress(VGA_START - 0x1000)).unwrap();
        memory.write_slice(&[7; 0x1000], GuestAddress(VGA_END)).unwrap();
        give_back(&memory, VGA_START..VGA_END).unwrap();
        give_back(&memory, 0x10_0001..u64::MAX).unwrap();
        give_back(&memory, u64::MAX - 1..u64::MAX).unwrap();
        assert_eq!(ranges(&memory).len(), 2);
        give_back(&memory, 0..u64::MAX).unwrap();
        assert_eq!(ranges(&memory), []);
    }
}
