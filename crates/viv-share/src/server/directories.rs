//! What is in directories.

use std::ffi::CStr;

use rustix::fs::{FileType, RawDir, RawDirEntry, SeekFrom};
use rustix::io::Errno;

use super::FileServer;
use crate::fuse::abi::{Dirent, EntryOut, InHeader, ReadIn};
use crate::fuse::{Body, Reply};
use crate::handles::Handle;

/// Entries start at multiples of so many bytes.
const ALIGNMENT: usize = 8;
/// The most that is asked of the host at a time, in bytes, and the least, which has room for any entry.
const LARGEST_ASK: usize = 32 << 10;
/// See [`LARGEST_ASK`].
const SMALLEST_ASK: usize = 512;
/// How much longer an entry with attributes is than the host's, at least.
const ATTRIBUTES_FACTOR: usize = 4;

impl FileServer {
    /// Puts as many entries as there is room for, with `plus` each with its node and attributes.
    pub(super) fn readdir(
        &self,
        header: &InHeader,
        mut body: Body<'_>,
        reply: &mut Reply<'_>,
        plus: bool,
    ) -> Result<(), Errno> {
        let ReadIn { fh, offset, size, .. } = body.take()?;
        let handle = self.handles.get(fh, header.nodeid)?;
        let room = usize::try_from(size).unwrap_or(usize::MAX).min(reply.room());
        let ask = if plus { room / ATTRIBUTES_FACTOR } else { room };
        let mut buffer = Vec::<u8>::with_capacity(ask.clamp(SMALLEST_ASK, LARGEST_ASK));
        let left = reply.room().saturating_sub(room);

        let _offset = handle.offset();
        rustix::fs::seek(&*handle, SeekFrom::Start(offset))?;
        let mut entries = RawDir::new(&*handle, buffer.spare_capacity_mut());
        let mut first = true;
        while let Some(entry) = entries.next() {
            let length =
                entry_length(entry.as_ref().map_or(0, |entry| entry.file_name().count_bytes()), plus);
            if reply.room() < left.saturating_add(length) {
                // The host has told of more than there was room for; the guest comes back for it.
                break;
            }
            match entry {
                Ok(entry) => self.put_dirent(&handle, &entry, plus, reply)?,
                Err(errno) if first => return Err(errno),
                Err(_) => break,
            }
            first = false;
        }
        Ok(())
    }

    fn put_dirent(
        &self,
        directory: &Handle,
        entry: &RawDirEntry<'_>,
        plus: bool,
        reply: &mut Reply<'_>,
    ) -> Result<(), Errno> {
        let name = entry.file_name();
        if plus {
            reply.put(&self.entry_of(directory, name))?;
        }
        let length = name.count_bytes();
        reply.put(&Dirent {
            ino: entry.ino(),
            off: entry.next_entry_cookie(),
            namelen: u32::try_from(length).map_err(|_| Errno::NAMETOOLONG)?,
            kind: kind(entry.file_type()),
        })?;
        reply.put_bytes(name.to_bytes())?;
        let padding = length.next_multiple_of(ALIGNMENT).saturating_sub(length);
        reply.put_bytes([0; ALIGNMENT].get(..padding).unwrap_or_default())
    }

    /// The node of an entry, of which the guest is told; none for what is no file below, or is gone already.
    fn entry_of(&self, directory: &Handle, name: &CStr) -> EntryOut {
        if matches!(name.to_bytes(), b"." | b"..") {
            return EntryOut::default();
        }
        let known = self.hold(directory, name).and_then(|(held, stat)| {
            let inode = self.inodes.look_up(held, &stat)?;
            Ok(self.entry(inode.id, &stat))
        });
        known.unwrap_or_default()
    }
}

/// The length of an entry with a name of so many bytes.
fn entry_length(name: usize, plus: bool) -> usize {
    let head =
        if plus { size_of::<EntryOut>().saturating_add(size_of::<Dirent>()) } else { size_of::<Dirent>() };
    head.saturating_add(name.next_multiple_of(ALIGNMENT))
}

/// DT_… of readdir(3).
fn kind(kind: FileType) -> u32 {
    match kind {
        FileType::Fifo => 1,
        FileType::CharacterDevice => 2,
        FileType::Directory => 4,
        FileType::BlockDevice => 6,
        FileType::RegularFile => 8,
        FileType::Symlink => 10,
        FileType::Socket => 12,
        FileType::Unknown => 0,
    }
}
