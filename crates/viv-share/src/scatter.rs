//! Files, read into guest memory without a copy on the way.

use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{c_int, iovec, off_t};
use rustix::io::Errno;
use vm_memory::VolatileSlice;

/// The most pieces of memory that the kernel takes at once (IOV_MAX).
pub(crate) const MOST: usize = 1024;

/// Reads what is at `offset` of a file into `pieces`, one after the other, and says how many bytes there were.
///
/// # Errors
/// When the file is not read, or there are more than [`MOST`] pieces.
pub(crate) fn read(file: BorrowedFd<'_>, offset: u64, pieces: &[VolatileSlice<'_>]) -> Result<usize, Errno> {
    let count = c_int::try_from(pieces.len()).map_err(|_| Errno::INVAL)?;
    let offset = off_t::try_from(offset).map_err(|_| Errno::INVAL)?;
    let guards: Vec<_> = pieces.iter().map(VolatileSlice::ptr_guard_mut).collect();
    let vectors: Vec<_> =
        guards.iter().map(|guard| iovec { iov_base: guard.as_ptr().cast(), iov_len: guard.len() }).collect();
    // SAFETY: each vector is a piece of memory that stays mapped as long as its guard is there. It is the guest's, whose
    // contents may change at any time: nothing here has a reference to it.
    let read = unsafe { libc::preadv(file.as_raw_fd(), vectors.as_ptr(), count, offset) };
    usize::try_from(read)
        .map_err(|_| Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_file_goes_into_pieces_as_far_as_it_reaches() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let (mut one, mut other) = ([0; 3], [0xaa; 8]);
        let pieces = [VolatileSlice::from(&mut one[..]), VolatileSlice::from(&mut other[..])];
        assert_eq!(read(file.as_fd(), 2, &pieces), Ok(8));
        assert_eq!(read(file.as_fd(), 10, &pieces), Ok(0));
        assert_eq!(read(file.as_fd(), u64::MAX, &pieces), Err(Errno::INVAL));
        assert_eq!((&one, &other), (b"234", b"56789\xaa\xaa\xaa"));
    }
}
