//! Files that are open, and what is in them.

use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, OFlags, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};

use super::attributes::kill_suid_and_sgid;
use super::{FileServer, LARGEST_DATA};
use crate::fuse::abi::{
    CopyFileRangeIn, FOPEN_CACHE_DIR, FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE, FSYNC_FDATASYNC, FallocateIn,
    FsyncIn, InHeader, LseekIn, LseekOut, OPEN_KILL_SUIDGID, Opcode, OpenIn, OpenOut, ReadIn, ReleaseIn,
    WRITE_CACHE, WRITE_KILL_SUIDGID, WriteIn, WriteOut,
};
use crate::fuse::{Body, Reply, Request};
use crate::handles::Handle;
use crate::inodes::Inode;
use crate::settings::Cache;

/// What is passed on of how a guest opens a file. What bypasses its cache (`O_DIRECT`) is for the guest's kernel alone: what it
/// reads into is not as the host's disks want it. That it appends is said with each write, of which some come from its cache.
const PASSED_ON: OFlags =
    OFlags::RWMODE.union(OFlags::TRUNC).union(OFlags::DSYNC).union(OFlags::SYNC).union(OFlags::NOATIME);
/// How much is copied from file to file at a time, in bytes: others wait for the thread.
const LARGEST_COPY: usize = 16 << 20;
/// SEEK_DATA and SEEK_HOLE of lseek(2), the only ones that need the server.
const SEEK_DATA: u32 = 3;
/// See [`SEEK_DATA`].
const SEEK_HOLE: u32 = 4;

/// Part of a file that is to be read.
#[derive(Debug)]
pub(crate) struct Reading {
    /// The request's number.
    pub(crate) unique: u64,
    pub(crate) file: Arc<Handle>,
    pub(crate) offset: u64,
    /// How many bytes at the most.
    pub(crate) size: usize,
}

impl FileServer {
    pub(super) fn open(
        &self,
        header: &InHeader,
        mut body: Body<'_>,
        reply: &mut Reply<'_>,
    ) -> Result<(), Errno> {
        let OpenIn { flags, open_flags } = body.take()?;
        let inode = self.inodes.get(header.nodeid)?;
        let how = self.open_flags(OFlags::from_bits_retain(flags))?;
        let file = self.open_inode(&inode, how, open_flags & OPEN_KILL_SUIDGID != 0)?;
        self.put_open(inode.id, file, reply)
    }

    pub(super) fn opendir(&self, header: &InHeader, reply: &mut Reply<'_>) -> Result<(), Errno> {
        let inode = self.inodes.get(header.nodeid)?;
        let directory = self.open_content(&inode, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let fh = self.handles.add(inode.id, directory)?;
        let open_flags = match self.settings.cache {
            Cache::None | Cache::Auto => 0,
            Cache::Always => FOPEN_KEEP_CACHE | FOPEN_CACHE_DIR,
        };
        reply.put(&OpenOut { fh, open_flags, padding: 0 })
    }

    /// How a file is opened that the guest wants to open so.
    pub(super) fn open_flags(&self, wanted: OFlags) -> Result<OFlags, Errno> {
        let passed = wanted & PASSED_ON;
        let changes = passed & OFlags::RWMODE != OFlags::RDONLY || passed.contains(OFlags::TRUNC);
        if changes && self.settings.read_only { Err(Errno::ROFS) } else { Ok(passed) }
    }

    /// Opens a file that is there. With `kill` it loses the rights of its owner if it is emptied.
    pub(super) fn open_inode(&self, inode: &Inode, how: OFlags, kill: bool) -> Result<OwnedFd, Errno> {
        if kill && how.contains(OFlags::TRUNC) {
            kill_suid_and_sgid(self.open_content(inode, OFlags::RDONLY)?)?;
        }
        self.open_content(inode, how)
    }

    /// Puts the answer to an open.
    pub(super) fn put_open(&self, node: u64, file: OwnedFd, reply: &mut Reply<'_>) -> Result<(), Errno> {
        let fh = self.handles.add(node, file)?;
        let open_flags = match self.settings.cache {
            Cache::None => FOPEN_DIRECT_IO,
            Cache::Auto => 0,
            Cache::Always => FOPEN_KEEP_CACHE,
        };
        reply.put(&OpenOut { fh, open_flags, padding: 0 })
    }

    pub(super) fn release(&self, header: &InHeader, mut body: Body<'_>) -> Result<(), Errno> {
        let ReleaseIn { fh, .. } = body.take()?;
        self.handles.remove(fh, header.nodeid)
    }

    /// What a request wants to have read, if it is one to read and names an open file.
    pub(crate) fn reading(&self, request: &[u8]) -> Option<Reading> {
        let Request { header, mut body } = Request::new(request)?;
        if Opcode::new(header.opcode) != Some(Opcode::Read) {
            return None;
        }
        let ReadIn { fh, offset, size, .. } = body.take().ok()?;
        let file = self.handles.get(fh, header.nodeid).ok()?;
        let size = usize::try_from(size).ok()?.min(LARGEST_DATA);
        Some(Reading { unique: header.unique, file, offset, size })
    }

    pub(super) fn read(
        &self,
        header: &InHeader,
        mut body: Body<'_>,
        reply: &mut Reply<'_>,
    ) -> Result<(), Errno> {
        let ReadIn { fh, offset, size, .. } = body.take()?;
        let handle = self.handles.get(fh, header.nodeid)?;
        let size = usize::try_from(size).map_err(|_| Errno::INVAL)?.min(LARGEST_DATA);
        reply.put_with(size, |data| rustix::io::pread(&*handle, data, offset))
    }

    pub(super) fn write(
        &self,
        header: &InHeader,
        mut body: Body<'_>,
        reply: &mut Reply<'_>,
    ) -> Result<(), Errno> {
        let WriteIn { fh, offset, size, write_flags, flags, .. } = body.take()?;
        let data = body.bytes(size)?;
        let handle = self.handles.get(fh, header.nodeid)?;
        if write_flags & WRITE_KILL_SUIDGID != 0 {
            kill_suid_and_sgid(&*handle)?;
        }
        let appends =
            OFlags::from_bits_retain(flags).contains(OFlags::APPEND) && write_flags & WRITE_CACHE == 0;
        let written = if appends {
            rustix::io::pwritev2(&*handle, &[IoSlice::new(data)], offset, ReadWriteFlags::APPEND)?
        } else {
            rustix::io::pwrite(&*handle, data, offset)?
        };
        reply.put(&WriteOut { size: u32::try_from(written).map_err(|_| Errno::INVAL)?, padding: 0 })
    }

    pub(super) fn fsync(&self, header: &InHeader, mut body: Body<'_>) -> Result<(), Errno> {
        let FsyncIn { fh, fsync_flags, .. } = body.take()?;
        let handle = self.handles.get(fh, header.nodeid)?;
        if fsync_flags & FSYNC_FDATASYNC == 0 {
            rustix::fs::fsync(&*handle)
        } else {
            rustix::fs::fdatasync(&*handle)
        }
    }

    pub(super) fn fallocate(&self, header: &InHeader, mut body: Body<'_>) -> Result<(), Errno> {
        let FallocateIn { fh, offset, length, mode, .. } = body.take()?;
        let mode = FallocateFlags::from_bits_retain(mode);
        let known = FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE;
        if !known.contains(mode) {
            return Err(Errno::OPNOTSUPP);
        }
        rustix::fs::fallocate(&*self.handles.get(fh, header.nodeid)?, mode, offset, length)
    }

    pub(super) fn lseek(
        &self,
        header: &InHeader,
        mut body: Body<'_>,
        reply: &mut Reply<'_>,
    ) -> Result<(), Errno> {
        let LseekIn { fh, offset, whence, .. } = body.take()?;
        let handle = self.handles.get(fh, header.nodeid)?;
        let to = match whence {
            SEEK_DATA => SeekFrom::Data(offset),
            SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL),
        };
        // The offset counts in directories alone.
        let _offset = handle.offset();
        reply.put(&LseekOut { offset: rustix::fs::seek(&*handle, to)? })
    }

    pub(super) fn copy_file_range(
        &self,
        header: &InHeader,
        mut body: Body<'_>,
        reply: &mut Reply<'_>,
    ) -> Result<(), Errno> {
        let CopyFileRangeIn { fh_in, mut off_in, nodeid_out, fh_out, mut off_out, len, flags } =
            body.take()?;
        if flags != 0 {
            return Err(Errno::INVAL);
        }
        let from = self.handles.get(fh_in, header.nodeid)?;
        let to = self.handles.get(fh_out, nodeid_out)?;
        let length = usize::try_from(len).unwrap_or(LARGEST_COPY).min(LARGEST_COPY);
        let copied =
            rustix::fs::copy_file_range(&*from, Some(&mut off_in), &*to, Some(&mut off_out), length)?;
        reply.put(&WriteOut { size: u32::try_from(copied).map_err(|_| Errno::INVAL)?, padding: 0 })
    }
}
