//! Making files as somebody else.

use std::marker::PhantomData;
use std::process::abort;

use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::thread::{set_thread_res_gid, set_thread_res_uid};

use crate::settings::Owners;

/// The calling thread as another user and group, for as long as it lives. What is made meanwhile belongs to them from its
/// first moment on. Capabilities stay, as the jail's secure bits say.
#[derive(Debug)]
pub(crate) struct Guise {
    user: bool,
    group: bool,
    /// It belongs to its thread.
    _here: PhantomData<*const ()>,
}

impl Guise {
    /// Makes the thread what the guest's user and group are on the host.
    pub(crate) fn put_on(owners: Owners, user: u32, group: u32) -> Result<Self, Errno> {
        let mut guise = Self { user: false, group: false, _here: PhantomData };
        if owners != Owners::Same {
            return Ok(guise);
        }
        // The number that means none.
        if user == u32::MAX || group == u32::MAX {
            return Err(Errno::INVAL);
        }
        if group != 0 {
            set_thread_res_gid(None, Gid::from_raw(group), None)?;
            guise.group = true;
        }
        if user != 0 {
            set_thread_res_uid(None, Uid::from_raw(user), None)?;
            guise.user = true;
        }
        Ok(guise)
    }
}

impl Drop for Guise {
    fn drop(&mut self) {
        let user = if self.user { set_thread_res_uid(None, Uid::ROOT, None) } else { Ok(()) };
        let group = if self.group { set_thread_res_gid(None, Gid::ROOT, None) } else { Ok(()) };
        if user.is_err() || group.is_err() {
            // What comes next would be done as somebody else.
            abort();
        }
    }
}
