//! The file server: requests in, replies out.
//!
//! It knows no rings and no sockets: [`FileServer::serve`] takes the bytes of a request and leaves those of the reply.
//! Requests come from several threads at once.

mod attributes;
mod directories;
mod files;
mod names;
mod session;
#[cfg(test)]
mod tests;
mod xattrs;

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, openat2};
use rustix::io::Errno;

use crate::fuse::abi::{InHeader, Opcode, ROOT};
use crate::fuse::{Body, Reply, Request};
use crate::handles::Handles;
use crate::inodes::{Inode, Inodes};
use crate::links::Links;
use crate::settings::Settings;

pub(crate) use files::Reading;

/// The most data in one write or read, in bytes.
pub const LARGEST_DATA: usize = 1 << 20;

/// A directory of the host, as it is served to one guest.
#[derive(Debug)]
pub struct FileServer {
    settings: Settings,
    links: Links,
    pub(crate) inodes: Inodes,
    handles: Handles,
}

impl FileServer {
    /// Serves the directory that is open by `root`.
    ///
    /// # Errors
    /// When it cannot be looked at, or the kernel is older than 5.6 and cannot keep a path below a directory.
    pub fn new(root: OwnedFd, links: Links, settings: Settings) -> Result<Self, Errno> {
        let inodes = Inodes::new(root, settings.nodes)?;
        let server = Self { settings, links, inodes, handles: Handles::new(settings.handles) };
        server.hold(&*server.inodes.get(ROOT)?, c".")?;
        Ok(server)
    }

    /// Serves a request. Leaves the reply in `reply`, which is as long as the guest has room for; says how long it is, if there
    /// is one.
    pub fn serve(&self, request: &[u8], reply: &mut [u8]) -> Option<usize> {
        let Request { header, body } = Request::new(request)?;
        let opcode = Opcode::new(header.opcode);
        match opcode {
            Some(Opcode::Forget) => self.forget(&header, body),
            Some(Opcode::BatchForget) => self.forget_many(body),
            // What is under way comes to its end.
            Some(Opcode::Interrupt) => {}
            _ => {
                let mut out = Reply::new(reply)?;
                let result = opcode.ok_or(Errno::NOSYS).and_then(|opcode| {
                    self.permit(opcode)?;
                    self.dispatch(opcode, &header, body, &mut out)
                });
                return Some(out.finish(header.unique, result));
            }
        }
        None
    }

    fn dispatch(
        &self,
        opcode: Opcode,
        header: &InHeader,
        body: Body<'_>,
        reply: &mut Reply<'_>,
    ) -> Result<(), Errno> {
        match opcode {
            Opcode::Init => self.init(body, reply),
            Opcode::Destroy => self.destroy(),
            Opcode::Statfs => self.statfs(header, reply),
            Opcode::Syncfs => self.syncfs(),
            Opcode::Lookup => self.lookup(header, body, reply),
            Opcode::Symlink => self.symlink(header, body, reply),
            Opcode::Readlink => self.readlink(header, reply),
            Opcode::Mknod => self.mknod(header, body, reply),
            Opcode::Mkdir => self.mkdir(header, body, reply),
            Opcode::Create => self.create(header, body, reply),
            Opcode::Link => self.link(header, body, reply),
            Opcode::Unlink => self.unlink(header, body, AtFlags::empty()),
            Opcode::Rmdir => self.unlink(header, body, AtFlags::REMOVEDIR),
            Opcode::Rename => self.rename(header, body),
            Opcode::Rename2 => self.rename2(header, body),
            Opcode::Getattr => self.getattr(header, body, reply),
            Opcode::Setattr => self.setattr(header, body, reply),
            Opcode::Open => self.open(header, body, reply),
            Opcode::Read => self.read(header, body, reply),
            Opcode::Write => self.write(header, body, reply),
            Opcode::Fsync | Opcode::Fsyncdir => self.fsync(header, body),
            Opcode::Release | Opcode::Releasedir => self.release(header, body),
            Opcode::Fallocate => self.fallocate(header, body),
            Opcode::Lseek => self.lseek(header, body, reply),
            Opcode::CopyFileRange => self.copy_file_range(header, body, reply),
            Opcode::Opendir => self.opendir(header, reply),
            Opcode::Readdir => self.readdir(header, body, reply, false),
            Opcode::Readdirplus => self.readdir(header, body, reply, true),
            Opcode::Getxattr => self.getxattr(header, body, reply),
            Opcode::Setxattr => self.setxattr(header, body),
            Opcode::Listxattr => self.listxattr(header, body, reply),
            Opcode::Removexattr => self.removexattr(header, body),
            // They have no reply, and do not come here.
            Opcode::Forget | Opcode::BatchForget | Opcode::Interrupt => Err(Errno::NOSYS),
        }
    }

    /// Refuses what changes anything in a directory that is for reading. What opens files looks at how by itself.
    fn permit(&self, opcode: Opcode) -> Result<(), Errno> {
        let changes = matches!(
            opcode,
            Opcode::Symlink
                | Opcode::Mknod
                | Opcode::Mkdir
                | Opcode::Create
                | Opcode::Link
                | Opcode::Unlink
                | Opcode::Rmdir
                | Opcode::Rename
                | Opcode::Rename2
                | Opcode::Setattr
                | Opcode::Write
                | Opcode::Fallocate
                | Opcode::CopyFileRange
                | Opcode::Setxattr
                | Opcode::Removexattr
        );
        if changes && self.settings.read_only { Err(Errno::ROFS) } else { Ok(()) }
    }

    /// A descriptor that names the entry of a directory, be it a link or whatever else, and what is known of it.
    fn hold(&self, directory: impl AsFd, name: &CStr) -> Result<(OwnedFd, Stat), Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat2(directory, name, flags, Mode::empty(), BELOW)?;
        let stat = rustix::fs::fstat(&file)?;
        Ok((file, stat))
    }

    /// Opens a file for its content. Nothing but files and directories is opened: what a device or a pipe of the host does
    /// is not for guests.
    fn open_content(&self, inode: &Inode, flags: OFlags) -> Result<OwnedFd, Errno> {
        match inode.kind {
            FileType::RegularFile => self.links.open(inode, flags),
            FileType::Directory => self.links.open(inode, flags | OFlags::DIRECTORY),
            FileType::Symlink => Err(Errno::LOOP),
            _ => Err(Errno::NXIO),
        }
    }
}

/// How names are looked up: one component, never above the directory, never by way of a link of the kernel's making.
const BELOW: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_SYMLINKS);

/// A relative path to a descriptor itself.
const ITSELF: &CStr = c"";
