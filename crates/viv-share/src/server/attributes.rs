//! What is known of files beside their content.

use std::time::Duration;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid};
use rustix::io::Errno;

use super::{FileServer, ITSELF};
use crate::fuse::abi::{Attr, AttrOut, EntryOut, GETATTR_FH, GetattrIn, InHeader, SetattrIn, SetattrValid};
use crate::fuse::{Body, Reply};
use crate::inodes::Inode;
use crate::links::Links;
use crate::settings::Owners;

/// Who a file belongs to in a guest that has no such user (overflowuid in proc_sys_kernel(5)).
const NOBODY: u32 = 65_534;
/// Bits of a mode beside a file's kind.
const PERMISSIONS: u32 = 0o7777;
/// The first number of nanoseconds that is none.
const SECOND: u32 = 1_000_000_000;

impl FileServer {
    pub(super) fn getattr(
        &self,
        header: &InHeader,
        mut body: Body<'_>,
        reply: &mut Reply<'_>,
    ) -> Result<(), Errno> {
        let GetattrIn { flags, fh, .. } = body.take()?;
        let stat = if flags & GETATTR_FH == 0 {
            rustix::fs::fstat(&*self.inodes.get(header.nodeid)?)?
        } else {
            rustix::fs::fstat(&*self.handles.get(fh, header.nodeid)?)?
        };
        self.put_attributes(&stat, reply)
    }

    pub(super) fn setattr(
        &self,
        header: &InHeader,
        mut body: Body<'_>,
        reply: &mut Reply<'_>,
    ) -> Result<(), Errno> {
        let wanted: SetattrIn = body.take()?;
        let valid = SetattrValid::from_bits_truncate(wanted.valid);
        let inode = self.inodes.get(header.nodeid)?;
        if valid.contains(SetattrValid::MODE) {
            let mode = Mode::from_raw_mode(wanted.mode & PERMISSIONS);
            rustix::fs::chmodat(self.links.directory(), Links::name(&*inode), mode, AtFlags::empty())?;
        }
        if valid.intersects(SetattrValid::UID | SetattrValid::GID) {
            self.set_owner(&inode, &wanted, valid)?;
        }
        if valid.contains(SetattrValid::SIZE) {
            let opened;
            let handle;
            let file = if valid.contains(SetattrValid::FH) {
                handle = self.handles.get(wanted.fh, header.nodeid)?;
                std::os::fd::AsFd::as_fd(&*handle)
            } else {
                opened = self.open_content(&inode, OFlags::WRONLY)?;
                std::os::fd::AsFd::as_fd(&opened)
            };
            if valid.contains(SetattrValid::KILL_SUIDGID) {
                kill_suid_and_sgid(file)?;
            }
            rustix::fs::ftruncate(file, wanted.size)?;
        }
        if valid.intersects(SetattrValid::ATIME | SetattrValid::MTIME) {
            let now = |now| valid.contains(now);
            let times = Timestamps {
                last_access: time(
                    valid.contains(SetattrValid::ATIME),
                    now(SetattrValid::ATIME_NOW),
                    wanted.atime,
                    wanted.atimensec,
                )?,
                last_modification: time(
                    valid.contains(SetattrValid::MTIME),
                    now(SetattrValid::MTIME_NOW),
                    wanted.mtime,
                    wanted.mtimensec,
                )?,
            };
            rustix::fs::utimensat(self.links.directory(), Links::name(&*inode), &times, AtFlags::empty())?;
        }
        self.put_attributes(&rustix::fs::fstat(&*inode)?, reply)
    }

    fn set_owner(&self, inode: &Inode, wanted: &SetattrIn, valid: SetattrValid) -> Result<(), Errno> {
        let id = |field, value: u32, own: u32| match (valid.contains(field), self.settings.owners) {
            (false, _) => Ok(None),
            // The number that means none.
            (true, _) if value == u32::MAX => Err(Errno::INVAL),
            (true, Owners::Same) => Ok(Some(value)),
            (true, Owners::Squashed { .. }) if value == 0 => Ok(Some(own)),
            (true, Owners::Squashed { .. }) => Err(Errno::PERM),
        };
        let (user, group) = match self.settings.owners {
            Owners::Same => (0, 0),
            Owners::Squashed { user, group } => (user, group),
        };
        let user = id(SetattrValid::UID, wanted.uid, user)?.map(Uid::from_raw);
        let group = id(SetattrValid::GID, wanted.gid, group)?.map(Gid::from_raw);
        rustix::fs::chownat(inode, ITSELF, user, group, AtFlags::EMPTY_PATH)
    }

    /// Puts the answer about attributes.
    pub(super) fn put_attributes(&self, stat: &Stat, reply: &mut Reply<'_>) -> Result<(), Errno> {
        let validity = self.settings.cache.validity();
        reply.put(&AttrOut {
            attr_valid: validity.as_secs(),
            attr_valid_nsec: validity.subsec_nanos(),
            dummy: 0,
            attr: self.attributes(stat),
        })
    }

    /// A name's node, with its attributes.
    pub(super) fn entry(&self, node: u64, stat: &Stat) -> EntryOut {
        let validity: Duration = self.settings.cache.validity();
        EntryOut {
            nodeid: node,
            entry_valid: validity.as_secs(),
            entry_valid_nsec: validity.subsec_nanos(),
            attr_valid: validity.as_secs(),
            attr_valid_nsec: validity.subsec_nanos(),
            attr: self.attributes(stat),
            ..EntryOut::default()
        }
    }

    fn attributes(&self, stat: &Stat) -> Attr {
        let short = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let (uid, gid) = match self.settings.owners {
            Owners::Same => (stat.st_uid, stat.st_gid),
            Owners::Squashed { user, group } => {
                (if stat.st_uid == user { 0 } else { NOBODY }, if stat.st_gid == group { 0 } else { NOBODY })
            }
        };
        Attr {
            ino: self.inodes.number(stat),
            size: stat.st_size.cast_unsigned(),
            blocks: stat.st_blocks.cast_unsigned(),
            atime: stat.st_atime.cast_unsigned(),
            mtime: stat.st_mtime.cast_unsigned(),
            ctime: stat.st_ctime.cast_unsigned(),
            atimensec: short(stat.st_atime_nsec),
            mtimensec: short(stat.st_mtime_nsec),
            ctimensec: short(stat.st_ctime_nsec),
            mode: stat.st_mode,
            nlink: short(stat.st_nlink),
            uid,
            gid,
            rdev: short(stat.st_rdev),
            blksize: short(stat.st_blksize.cast_unsigned()),
            flags: 0,
        }
    }
}

/// A time to be set: the host's, that of the request, or none.
fn time(valid: bool, now: bool, seconds: u64, nanoseconds: u32) -> Result<Timespec, Errno> {
    let special = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
    match (valid, now) {
        (false, _) => Ok(special(UTIME_OMIT)),
        (true, true) => Ok(special(UTIME_NOW)),
        (true, false) if nanoseconds >= SECOND => Err(Errno::INVAL),
        (true, false) => Ok(Timespec { tv_sec: seconds.cast_signed(), tv_nsec: nanoseconds.into() }),
    }
}

/// Takes the rights of its owner and group from a file that is about to be changed by somebody else. The server could keep
/// them, so the host's kernel does not.
pub(super) fn kill_suid_and_sgid(file: impl std::os::fd::AsFd) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&file)?.st_mode & PERMISSIONS);
    let mut killed = mode.difference(Mode::SUID);
    // Without the group's right to execute, the bit means something else.
    if mode.contains(Mode::XGRP) {
        killed.remove(Mode::SGID);
    }
    if killed == mode { Ok(()) } else { rustix::fs::fchmod(&file, killed) }
}
