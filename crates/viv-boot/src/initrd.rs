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

impl Initrd<'_> {
    fn size(&self) -> Result<u64, BootError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.len() as u64),
            Self::File(file) => Ok(file.metadata().map_err(BootError::ReadInitrd)?.len()),
        }
    }

    /// Puts it as high as possible into `room`, on a page of its own, and says where it is. An empty one is
    /// nowhere.
    ///
    /// High, because the kernel's own first allocations grow upwards from its end.
    pub(crate) fn place(
        &self,
        memory: &GuestMemory,
        room: Range<u64>,
    ) -> Result<Option<Range<u64>>, BootError> {
        let size = self.size()?;
        if size == 0 {
            return Ok(None);
        }
        let lowest = room.start.next_multiple_of(PAGE);
        let start = room.end.checked_sub(size).map(|start| start & !(PAGE - 1));
        let Some(start) = start.filter(|start| *start >= lowest) else {
            return Err(BootError::InitrdTooLarge { size, room: room.end.saturating_sub(lowest) });
        };
        match self {
            Self::Bytes(bytes) => map::write(memory, "initrd", start, bytes)?,
            Self::File(file) => copy(memory, file, start, size)?,
        }
        Ok(Some(start..start + size))
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
        let place = |size: usize| Initrd::Bytes(&vec![7; size]).place(&memory, 0x1_0001..0x2_0000);
        assert_eq!(place(1).unwrap(), Some(0x1_f000..0x1_f001));
        assert_eq!(place(0xf000).unwrap(), Some(0x1_1000..0x2_0000));
        assert_eq!(place(0).unwrap(), None);
        let error = place(0xf001).unwrap_err();
        assert!(matches!(error, BootError::InitrdTooLarge { size: 0xf001, room: 0xf000 }), "{error}");
    }

    #[test]
    fn a_file_is_read_whole_and_again() {
        let memory = allocate(8 << 20).unwrap();
        let content: Vec<u8> = (0..CHUNK * 2 + 5).map(|n| (n % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        for _ in 0..2 {
            let at = Initrd::File(&file).place(&memory, 0x10_0000..0x80_0000).unwrap().unwrap();
            let mut read = vec![0; content.len()];
            memory.read_slice(&mut read, GuestAddress(at.start)).unwrap();
            assert!(read == content);
        }
    }
}
