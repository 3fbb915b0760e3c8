//! The session: its begin and end, what is forgotten, and the file system as a whole.

use rustix::io::Errno;

use super::{FileServer, LARGEST_DATA};
use crate::fuse::abi::{
    BatchForgetIn, ForgetIn, ForgetOne, InHeader, InitFlags, InitIn, InitOut, MINOR_VERSION, OLDEST_MINOR,
    ROOT, StatfsOut, VERSION,
};
use crate::fuse::{Body, Reply};
use crate::settings::Cache;

/// Requests that a guest may have under way beside those that somebody waits for.
const BACKGROUND: u16 = 64;
/// Above so many of them the guest holds writers back.
const CONGESTED: u16 = 48;
/// Bytes of a page of the guest.
const PAGE: usize = 4096;

impl FileServer {
    pub(super) fn init(&self, mut body: Body<'_>, reply: &mut Reply<'_>) -> Result<(), Errno> {
        let asked: InitIn = body.take()?;
        if asked.major < VERSION || (asked.major == VERSION && asked.minor < OLDEST_MINOR) {
            return Err(Errno::PROTO);
        }
        self.inodes.clear();
        self.handles.clear();
        let mut offered = InitFlags::ASYNC_READ
            | InitFlags::ATOMIC_O_TRUNC
            | InitFlags::BIG_WRITES
            | InitFlags::DO_READDIRPLUS
            | InitFlags::READDIRPLUS_AUTO
            | InitFlags::ASYNC_DIO
            | InitFlags::PARALLEL_DIROPS
            | InitFlags::MAX_PAGES
            | InitFlags::HANDLE_KILLPRIV_V2;
        match self.settings.cache {
            Cache::None => {}
            Cache::Auto => offered |= InitFlags::AUTO_INVAL_DATA,
            Cache::Always => offered |= InitFlags::CACHE_SYMLINKS,
        }
        let most = u32::try_from(LARGEST_DATA).map_err(|_| Errno::INVAL)?;
        reply.put(&InitOut {
            major: VERSION,
            minor: MINOR_VERSION,
            max_readahead: asked.max_readahead.min(most),
            flags: offered.bits() & asked.flags,
            max_background: BACKGROUND,
            congestion_threshold: CONGESTED,
            max_write: most,
            time_gran: 1,
            max_pages: u16::try_from(LARGEST_DATA / PAGE).map_err(|_| Errno::INVAL)?,
            ..InitOut::default()
        })
    }

    pub(super) fn destroy(&self) -> Result<(), Errno> {
        self.handles.clear();
        self.inodes.clear();
        Ok(())
    }

    pub(super) fn forget(&self, header: &InHeader, mut body: Body<'_>) {
        if let Ok(ForgetIn { nlookup }) = body.take() {
            self.inodes.forget(header.nodeid, nlookup);
        }
    }

    pub(super) fn forget_many(&self, mut body: Body<'_>) {
        let Ok(BatchForgetIn { count, .. }) = body.take() else { return };
        for _ in 0..count {
            // There are no more than the request has bytes for.
            let Ok(ForgetOne { nodeid, nlookup }) = body.take() else { return };
            self.inodes.forget(nodeid, nlookup);
        }
    }

    pub(super) fn statfs(&self, header: &InHeader, reply: &mut Reply<'_>) -> Result<(), Errno> {
        let all = rustix::fs::fstatvfs(&*self.inodes.get(header.nodeid)?)?;
        let short = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        reply.put(&StatfsOut {
            blocks: all.f_blocks,
            bfree: all.f_bfree,
            bavail: all.f_bavail,
            files: all.f_files,
            ffree: all.f_ffree,
            bsize: short(all.f_bsize),
            namelen: short(all.f_namemax),
            frsize: short(all.f_frsize),
            ..StatfsOut::default()
        })
    }

    pub(super) fn syncfs(&self) -> Result<(), Errno> {
        let root = self.open_content(&*self.inodes.get(ROOT)?, rustix::fs::OFlags::RDONLY)?;
        rustix::fs::syncfs(root)
    }
}
