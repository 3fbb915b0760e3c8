//! Names: what directories say of files.

use std::ffi::CStr;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, openat2};
use rustix::io::Errno;

use super::{BELOW, FileServer, ITSELF};
use crate::fuse::abi::{
    CreateIn, InHeader, LinkIn, MkdirIn, MknodIn, OPEN_KILL_SUIDGID, Rename2In, RenameIn,
};
use crate::fuse::{Body, Reply};
use crate::guise::Guise;
use crate::inodes::Inode;
use crate::links::Links;

/// Bits of a mode beside a file's kind.
const PERMISSIONS: u32 = 0o7777;

impl FileServer {
    pub(super) fn lookup(
        &self,
        header: &InHeader,
        mut body: Body<'_>,
        reply: &mut Reply<'_>,
    ) -> Result<(), Errno> {
        let name = body.name()?;
        self.put_entry(&*self.inodes.get(header.nodeid)?, name, reply)
    }

    pub(super) fn readlink(&self, header: &InHeader, reply: &mut Reply<'_>) -> Result<(), Errno> {
        let inode = self.inodes.get(header.nodeid)?;
        let target = rustix::fs::readlinkat(&*inode, ITSELF, Vec::new())?;
        reply.put_bytes(target.to_bytes())
    }

    pub(super) fn symlink(
        &self,
        header: &InHeader,
        mut body: Body<'_>,
        reply: &mut Reply<'_>,
    ) -> Result<(), Errno> {
        let name = body.name()?;
        let target = body.text()?;
        let directory = self.inodes.get(header.nodeid)?;
        self.as_guest(header, || rustix::fs::symlinkat(target, &*directory, name))?;
        self.put_entry(&directory, name, reply)
    }

    /// Makes a file, a pipe or a socket; a device is nobody's to make.
    pub(super) fn mknod(
        &self,
        header: &InHeader,
        mut body: Body<'_>,
        reply: &mut Reply<'_>,
    ) -> Result<(), Errno> {
        let MknodIn { mode, .. } = body.take()?;
        let name = body.name()?;
        let kind = FileType::from_raw_mode(mode);
        if !matches!(kind, FileType::RegularFile | FileType::Fifo | FileType::Socket) {
            return Err(Errno::PERM);
        }
        let directory = self.inodes.get(header.nodeid)?;
        self.as_guest(header, || rustix::fs::mknodat(&*directory, name, kind, permissions(mode), 0))?;
        self.put_entry(&directory, name, reply)
    }

    pub(super) fn mkdir(
        &self,
        header: &InHeader,
        mut body: Body<'_>,
        reply: &mut Reply<'_>,
    ) -> Result<(), Errno> {
        let MkdirIn { mode, .. } = body.take()?;
        let name = body.name()?;
        let directory = self.inodes.get(header.nodeid)?;
        self.as_guest(header, || rustix::fs::mkdirat(&*directory, name, permissions(mode)))?;
        self.put_entry(&directory, name, reply)
    }

    /// Makes a file and opens it, or opens the one that is there, unless it must not be.
    pub(super) fn create(
        &self,
        header: &InHeader,
        mut body: Body<'_>,
        reply: &mut Reply<'_>,
    ) -> Result<(), Errno> {
        let CreateIn { flags, mode, open_flags, .. } = body.take()?;
        let name = body.name()?;
        let directory = self.inodes.get(header.nodeid)?;
        let wanted = OFlags::from_bits_retain(flags);
        let how = self.open_flags(wanted)?;
        // Only what is made here is opened by its name: what is there already may be anything.
        let making = how | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = self.as_guest(header, || openat2(&*directory, name, making, permissions(mode), BELOW));
        let (held, file) = match made {
            Ok(file) => (self.links.open(&file, OFlags::PATH)?, Some(file)),
            Err(Errno::EXIST) if !wanted.contains(OFlags::EXCL) => (self.hold(&*directory, name)?.0, None),
            Err(errno) => return Err(errno),
        };
        let stat = rustix::fs::fstat(&held)?;
        let inode = self.inodes.look_up(held, &stat)?;
        let kill = open_flags & OPEN_KILL_SUIDGID != 0;
        let opened = file.map_or_else(|| self.open_inode(&inode, how, kill), Ok);
        let told = reply
            .put(&self.entry(inode.id, &stat))
            .and(opened)
            .and_then(|file| self.put_open(inode.id, file, reply));
        if told.is_err() {
            self.inodes.forget(inode.id, 1);
        }
        told
    }

    pub(super) fn link(
        &self,
        header: &InHeader,
        mut body: Body<'_>,
        reply: &mut Reply<'_>,
    ) -> Result<(), Errno> {
        let LinkIn { oldnodeid } = body.take()?;
        let name = body.name()?;
        let file = self.inodes.get(oldnodeid)?;
        let directory = self.inodes.get(header.nodeid)?;
        let links = self.links.directory();
        rustix::fs::linkat(links, Links::name(&*file), &*directory, name, AtFlags::SYMLINK_FOLLOW)?;
        self.put_entry(&directory, name, reply)
    }

    pub(super) fn unlink(&self, header: &InHeader, mut body: Body<'_>, how: AtFlags) -> Result<(), Errno> {
        let name = body.name()?;
        rustix::fs::unlinkat(&*self.inodes.get(header.nodeid)?, name, how)
    }

    pub(super) fn rename(&self, header: &InHeader, mut body: Body<'_>) -> Result<(), Errno> {
        let RenameIn { newdir } = body.take()?;
        self.move_to(header, body, newdir, RenameFlags::empty())
    }

    pub(super) fn rename2(&self, header: &InHeader, mut body: Body<'_>) -> Result<(), Errno> {
        let Rename2In { newdir, flags, .. } = body.take()?;
        let flags = RenameFlags::from_bits_retain(flags);
        // A whiteout is a device.
        if !(RenameFlags::NOREPLACE | RenameFlags::EXCHANGE).contains(flags) {
            return Err(Errno::INVAL);
        }
        self.move_to(header, body, newdir, flags)
    }

    fn move_to(
        &self,
        header: &InHeader,
        mut body: Body<'_>,
        to: u64,
        flags: RenameFlags,
    ) -> Result<(), Errno> {
        let (old, new) = (body.name()?, body.name()?);
        let from = self.inodes.get(header.nodeid)?;
        let to = self.inodes.get(to)?;
        rustix::fs::renameat_with(&*from, old, &*to, new, flags)
    }

    /// Does something as the guest's user, to whom what it makes belongs.
    fn as_guest<T>(&self, header: &InHeader, act: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        let _guise = Guise::put_on(self.settings.owners, header.uid, header.gid)?;
        act()
    }

    /// Looks a name up and puts what it stands for.
    fn put_entry(&self, directory: &Inode, name: &CStr, reply: &mut Reply<'_>) -> Result<(), Errno> {
        let (held, stat) = self.hold(directory, name)?;
        let inode = self.inodes.look_up(held, &stat)?;
        let told = reply.put(&self.entry(inode.id, &stat));
        if told.is_err() {
            self.inodes.forget(inode.id, 1);
        }
        told
    }
}

fn permissions(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & PERMISSIONS)
}
