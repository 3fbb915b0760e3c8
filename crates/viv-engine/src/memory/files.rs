//! Files of the host in guest memory.
//!
//! They lie beside RAM and are reached like it, by processors and devices. But what is in them is there before the machine and
//! after it, so whatever is done to RAM as a whole ([`give_back`](super::give_back), [`present`](super::present),
//! [`take_dirty_pages`](super::take_dirty_pages)) passes over them: their records say whose the contents are.
//!
//! A file that is made shorter while it is mapped takes the pages away. Who touches them then is killed (SIGBUS).

use std::fs::File;
use std::io;
use std::sync::Arc;

use rustix::mm::{MapFlags, ProtFlags};
use vm_memory::bitmap::NewBitmap;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, GuestAddress, GuestRegionMmap};

use super::{Contents, PageRecord};

/// How a file is in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileAccess {
    /// What is written there is in the file.
    Shared,
    /// It must not be written there: whoever does so in this process is killed.
    ReadOnly,
    /// What is written there is in no file, and is seen by those alone who reach memory by this very region.
    Private,
}

/// The first `size` bytes of a file as memory at guest-physical address `start`.
///
/// # Errors
/// When the file is shorter, is not open for this, or the host has no room for the mapping.
pub fn map_file(
    start: u64,
    file: &Arc<File>,
    size: u64,
    access: FileAccess,
) -> io::Result<Arc<GuestRegionMmap<PageRecord>>> {
    let write = ProtFlags::READ | ProtFlags::WRITE;
    let (rights, flags) = match access {
        FileAccess::Shared => (write, MapFlags::SHARED),
        FileAccess::ReadOnly => (ProtFlags::READ, MapFlags::SHARED),
        FileAccess::Private => (write, MapFlags::PRIVATE),
    };
    if file.metadata()?.len() < size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let size = usize::try_from(size).map_err(io::Error::other)?;
    // Of what devices alone see there is nothing to record.
    let recorded = if access == FileAccess::Private { 0 } else { size };
    let record = PageRecord { contents: Contents::File, ..PageRecord::with_len(recorded) };
    let mapping = MmapRegionBuilder::new_with_bitmap(size, record)
        .with_file_offset(FileOffset::from_arc(Arc::clone(file), 0))
        .with_mmap_prot(rights.bits().cast_signed())
        .with_mmap_flags((flags | MapFlags::NORESERVE).bits().cast_signed())
        .build()
        .map_err(io::Error::other)?;
    let region = GuestRegionMmap::new(mapping, GuestAddress(start)).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(Arc::new(region))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use vm_memory::Bytes;

    use super::super::{
        GuestMemory, Pages, allocate, file, give_back, present, present_bytes, take_dirty_pages,
    };
    use super::*;

    const START: u64 = 4 << 30;
    const SIZE: usize = 0x4000;

    /// RAM of 1 MiB and a file that is full of sevens.
    fn with_file(access: FileAccess) -> (GuestMemory, Arc<File>) {
        let file = file("test", SIZE as u64, Pages::Any).unwrap();
        file.write_all_at(&[7; SIZE], 0).unwrap();
        let region = map_file(START, &file, SIZE as u64, access).unwrap();
        (allocate(1 << 20).unwrap().insert_region(region).unwrap(), file)
    }

    fn content(file: &File) -> Vec<u8> {
        let mut content = vec![0; SIZE];
        file.read_exact_at(&mut content, 0).unwrap();
        content
    }

    #[test]
    fn what_is_done_to_ram_leaves_a_file_alone() {
        let (memory, file) = with_file(FileAccess::Shared);
        memory.write_slice(&[9; 2], GuestAddress(START)).unwrap();
        memory.write_slice(&[9; 2], GuestAddress(0x1000)).unwrap();
        assert_eq!(take_dirty_pages(&memory), [1]);
        let present: Vec<_> = present(&memory).map(|range| (range.start, range.end)).collect();
        assert_eq!(present, [(0x1000, 0x2000)]);
        assert_eq!(present_bytes(&memory), 0x1000);
        give_back(&memory, 0..u64::MAX).unwrap();
        assert_eq!(present_bytes(&memory), 0);
        assert_eq!(content(&file), [&[9; 2][..], &[7; SIZE - 2]].concat());
    }

    #[test]
    fn what_is_written_to_a_private_mapping_is_in_no_file() {
        let (memory, file) = with_file(FileAccess::Private);
        memory.write_slice(&[9; 2], GuestAddress(START)).unwrap();
        assert_eq!(memory.read_obj::<u8>(GuestAddress(START)).unwrap(), 9);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(START + 2)).unwrap(), 7);
        assert_eq!(content(&file), [7; SIZE]);
    }

    #[test]
    fn a_file_that_is_too_short_is_refused() {
        let file = file("test", SIZE as u64 - 1, Pages::Any).unwrap();
        assert!(map_file(START, &file, SIZE as u64, FileAccess::Shared).is_err());
    }
}
