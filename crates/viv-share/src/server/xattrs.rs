//! Extended attributes: those of users alone. What others mean to the host's kernel is not for guests to say.

use std::ffi::CStr;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::FileServer;
use crate::fuse::abi::{GetxattrIn, GetxattrOut, InHeader, SetxattrIn};
use crate::fuse::{Body, Reply};

/// What names of users' attributes begin with (xattr(7)).
const USERS: &[u8] = b"user.";
/// The longest value and the longest list (XATTR_SIZE_MAX, XATTR_LIST_MAX).
const LONGEST: usize = 64 << 10;

impl FileServer {
    pub(super) fn getxattr(
        &self,
        header: &InHeader,
        mut body: Body<'_>,
        reply: &mut Reply<'_>,
    ) -> Result<(), Errno> {
        let GetxattrIn { size, .. } = body.take()?;
        let name = users(body.text()?)?;
        let mut value = vec![0; LONGEST];
        let length = self.by_path(header, |path| rustix::fs::getxattr(path, name, value.as_mut_slice()))?;
        put(value.get(..length).unwrap_or_default(), size, reply)
    }

    pub(super) fn listxattr(
        &self,
        header: &InHeader,
        mut body: Body<'_>,
        reply: &mut Reply<'_>,
    ) -> Result<(), Errno> {
        let GetxattrIn { size, .. } = body.take()?;
        let mut names = vec![0; LONGEST];
        let length = self.by_path(header, |path| rustix::fs::listxattr(path, names.as_mut_slice()))?;
        let names = names.get(..length).unwrap_or_default();
        let of_users = names.split_inclusive(|byte| *byte == 0).filter(|name| name.starts_with(USERS));
        put(&of_users.flatten().copied().collect::<Vec<_>>(), size, reply)
    }

    pub(super) fn setxattr(&self, header: &InHeader, mut body: Body<'_>) -> Result<(), Errno> {
        let SetxattrIn { size, flags } = body.take()?;
        let name = users(body.text()?)?;
        let value = body.bytes(size)?;
        let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        self.by_path(header, |path| rustix::fs::setxattr(path, name, value, flags))
    }

    pub(super) fn removexattr(&self, header: &InHeader, mut body: Body<'_>) -> Result<(), Errno> {
        let name = users(body.text()?)?;
        self.by_path(header, |path| rustix::fs::removexattr(path, name))
    }

    /// Does what takes a path and no descriptor.
    fn by_path<T>(&self, header: &InHeader, act: impl FnOnce(&str) -> Result<T, Errno>) -> Result<T, Errno> {
        // The path leads to the file while it is held.
        let inode = self.inodes.get(header.nodeid)?;
        act(&self.links.path(&*inode))
    }
}

/// The name, if it is that of a user's attribute.
fn users(name: &CStr) -> Result<&CStr, Errno> {
    if name.to_bytes().starts_with(USERS) { Ok(name) } else { Err(Errno::OPNOTSUPP) }
}

/// Puts a value of which the guest takes `size` bytes, or its length if that is 0.
fn put(value: &[u8], size: u32, reply: &mut Reply<'_>) -> Result<(), Errno> {
    let length = u32::try_from(value.len()).map_err(|_| Errno::RANGE)?;
    match size {
        0 => reply.put(&GetxattrOut { size: length, padding: 0 }),
        size if length > size => Err(Errno::RANGE),
        _ => reply.put_bytes(value),
    }
}
