//! A request, taken apart.

use std::ffi::CStr;

use rustix::io::Errno;
use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::abi::InHeader;

/// The longest name in a directory (NAME_MAX).
const LONGEST_NAME: usize = 255;

/// A request of the guest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    /// Its head.
    pub(crate) header: InHeader,
    /// What follows.
    pub(crate) body: Body<'a>,
}

/// What follows a request's head, taken from the front.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Body<'a>(&'a [u8]);

impl<'a> Request<'a> {
    /// The request in these bytes; `None` if they are none, and there is nobody to answer.
    pub(crate) fn new(bytes: &'a [u8]) -> Option<Self> {
        let (header, rest) = InHeader::read_from_prefix(bytes).ok()?;
        let length = usize::try_from(header.len).ok()?.checked_sub(size_of::<InHeader>())?;
        Some(Self { header, body: Body(rest.get(..length)?) })
    }
}

impl<'a> Body<'a> {
    /// A structure.
    pub(crate) fn take<T: FromBytes + KnownLayout + Immutable>(&mut self) -> Result<T, Errno> {
        let (value, rest) = T::read_from_prefix(self.0).map_err(|_| Errno::INVAL)?;
        self.0 = rest;
        Ok(value)
    }

    /// Text with a zero at its end.
    pub(crate) fn text(&mut self) -> Result<&'a CStr, Errno> {
        let text = CStr::from_bytes_until_nul(self.0).map_err(|_| Errno::INVAL)?;
        self.0 = self.0.get(text.count_bytes().saturating_add(1)..).unwrap_or_default();
        Ok(text)
    }

    /// The name of an entry in a directory: one component, neither the directory itself nor the one above.
    pub(crate) fn name(&mut self) -> Result<&'a CStr, Errno> {
        let name = self.text()?;
        match name.to_bytes() {
            b"" | b"." | b".." => Err(Errno::INVAL),
            bytes if bytes.contains(&b'/') => Err(Errno::INVAL),
            bytes if bytes.len() > LONGEST_NAME => Err(Errno::NAMETOOLONG),
            _ => Ok(name),
        }
    }

    /// So many bytes.
    pub(crate) fn bytes(&mut self, length: u32) -> Result<&'a [u8], Errno> {
        let length = usize::try_from(length).map_err(|_| Errno::INVAL)?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(bytes)
    }
}
