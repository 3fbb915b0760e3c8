//! The initial RAM disk.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use viv_engine::GuestMemory;

use crate::error::BootError;
use crate::map;

/// An initrd, from memory or from a file.
#[derive(Debug, Clone, Copy)]
pub enum Initrd<'a> {
    /// Its bytes.
    Bytes(&'a [u8]),
    /// A file that holds it. It is read from its beginning, wherever the file's offset stands.
    File(&'a File),
}

const PAGE: u64 = 0x1000;
const CHUNK: usize = 1 << 20;

/// An initrd with a command line of its own, which Multiboot kernels are told.
#[derive(Debug, Clone, Copy)]
pub struct Module<'a> {
    /// What it holds.
    pub content: Initrd<'a>,
    /// Its command line.
    pub cmdline: &'a str,
}

impl<'a> From<Initrd<'a>> for Module<'a> {
    fn from(content: Initrd<'a>) -> Self {
        Self { content, cmdline: "" }
    }
}

/// Puts initrds as high as possible into `room`, one after the other, each at a multiple of four, and says where they
/// are. Nothing is nowhere.
pub(crate) fn place_joined(
    initrds: &[Module<'_>],
    memory: &GuestMemory,
    room: Range<u64>,
) -> Result<Option<Range<u64>>, BootError> {
    let mut total = 0_u64;
    let mut pieces = Vec::new();
    for Module { content, .. } in initrds {
        let size = content.size()?;
        let offset = total.next_multiple_of(4);
        pieces.push((content, offset, size));
        total = offset.saturating_add(size);
    }
    if total == 0 {
        return Ok(None);
    }
    let place = find_place(total, room)?;
    for (content, offset, size) in pieces {
        content.copy_to(memory, place.start + offset, size)?;
    }
    Ok(Some(place))
}

/// Puts each initrd on pages of its own, as high as possible in `room`, the first one highest.
pub(crate) fn place_apart(
    initrds: &[Module<'_>],
    memory: &GuestMemory,
    mut room: Range<u64>,
) -> Result<Vec<Range<u64>>, BootError> {
    let mut places = Vec::new();
    for Module { content, .. } in initrds {
        let size = content.size()?;
        let place = find_place(size, room.clone())?;
        content.copy_to(memory, place.start, size)?;
        room.end = place.start;
        places.push(place);
    }
    Ok(places)
}

/// The highest place in `room` for `size` bytes that begins a page.
///
/// High, because the kernel's own first allocations grow upwards from its end.
fn find_place(size: u64, room: Range<u64>) -> Result<Range<u64>, BootError> {
    let lowest = room.start.next_multiple_of(PAGE);
    let start = room.end.checked_sub(size).map(|start| start & !(PAGE - 1));
    match start.filter(|start| *start >= lowest) {
        Some(start) => Ok(start..start + size),
        None => Err(BootError::InitrdTooLarge { size, room: room.end.saturating_sub(lowest) }),
    }
}

impl Initrd<'_> {
    fn size(&self) -> Result<u64, BootError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.len() as u64),
            Self::File(file) => Ok(file.metadata().map_err(BootError::ReadInitrd)?.len()),
        }
    }

    /// Copies its first `size` bytes to `start`.
    fn copy_to(&self, memory: &GuestMemory, start: u64, size: u64) -> Result<(), BootError> {
        match self {
            Self::Bytes(bytes) => map::write(memory, "initrd", start, bytes),
            Self::File(file) => copy(memory, file, start, size),
        }
    }
}

/// Copies the first `size` bytes of `file` to `start`.
fn copy(memory: &GuestMemory, file: &File, start: u64, size: u64) -> Result<(), BootError> {
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    while done < size {
        let step = (size - done).min(CHUNK as u64) as usize;
        file.read_exact_at(&mut buffer[..step], done).map_err(BootError::ReadInitrd)?;
        map::write(memory, "initrd", start + done, &buffer[..step])?;
        done += step as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use viv_engine::memory::allocate;
    use vm_memory::{Bytes, GuestAddress};

    use super::*;

    #[test]
    fn it_goes_as_high_as_its_page_allows() {
        let memory = allocate(1 << 20).unwrap();
        let place =
            |size: usize| place_joined(&[Initrd::Bytes(&vec![7; size]).into()], &memory, 0x1_0001..0x2_0000);
        assert_eq!(place(1).unwrap(), Some(0x1_f000..0x1_f001));
        assert_eq!(place(0xf000).unwrap(), Some(0x1_1000..0x2_0000));
        assert_eq!(place(0).unwrap(), None);
        let error = place(0xf001).unwrap_err();
        assert!(matches!(error, BootError::InitrdTooLarge { size: 0xf001, room: 0xf000 }), "{error}");
    }

    #[test]
    fn several_are_joined_at_multiples_of_four() {
        let memory = allocate(1 << 20).unwrap();
        let pieces = [&b"abcde"[..], b"x", b"", b"1234"].map(|piece| Initrd::Bytes(piece).into());
        let place = place_joined(&pieces, &memory, 0x1_0000..0x2_0000).unwrap().unwrap();
        let mut joined = [0; 16];
        memory.read_slice(&mut joined, GuestAddress(place.start)).unwrap();
        assert_eq!((place.end - place.start, &joined), (16, b"abcde\0\0\0x\0\0\x001234"));
    }

    #[test]
    fn modules_lie_on_pages_of_their_own() {
        let memory = allocate(1 << 20).unwrap();
        let pieces = [&[1; 0x1001][..], &[], &[2; 1]].map(|piece| Initrd::Bytes(piece).into());
        let places = place_apart(&pieces, &memory, 0x1_0000..0x2_0000).unwrap();
        assert_eq!(places, [0x1_e000..0x1_f001, 0x1_e000..0x1_e000, 0x1_d000..0x1_d001]);
        assert!(place_apart(&pieces, &memory, 0x1_0000..0x1_1fff).is_err());
    }

    #[test]
    fn a_file_is_read_whole_and_again() {
        let memory = allocate(8 << 20).unwrap();
        let content: Vec<u8> = (0..CHUNK * 2 + 5).map(|n| (n % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        for _ in 0..2 {
            let at = place_joined(&[Initrd::File(&file).into()], &memory, 0x10_0000..0x80_0000);
            let at = at.unwrap().unwrap();
            let mut read = vec![0; content.len()];
            memory.read_slice(&mut read, GuestAddress(at.start)).unwrap();
            assert!(read == content);
        }
    }
}
