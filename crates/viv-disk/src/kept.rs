//! A disk that is kept over a base which must not change meanwhile.
//!
//! It is a qcow2 image whose header says, in an extension of its own, what the base was when it was made: 8 bytes of size,
//! and where the base has a time of change 8 bytes of seconds and 8 of nanoseconds, big-endian.

use std::path::Path;

use crate::bytes::take;
use crate::file::DiskFile;
use crate::qcow2::{self, CreateOptions, Qcow2Disk};
use crate::{Access, DiskError, Format, open};

/// How the files of former versions begin.
const FORMER: [u8; 8] = *b"VIVOVL\r\n";

/// Opens the disk at `path` over the disk of that format at `base`; makes it if it is not there.
///
/// # Errors
/// When one of the files cannot be opened or made, is in use, or is no disk; or when the base has changed since.
pub fn open_kept(base: &Path, format: Format, path: &Path) -> Result<Qcow2Disk, DiskError> {
    let disk = open(base, format, Access::ReadOnly)?;
    let stamp = stamp(&DiskFile::open_unlocked(base)?)?;
    if !path.exists() {
        // The name is for others who open it; where a base has no absolute name, they give it.
        let name = std::fs::canonicalize(base).map_err(DiskError::io("find", base))?;
        let options = CreateOptions {
            backing: Some((name, format)),
            base_stamp: Some(stamp.clone()),
            ..CreateOptions::default()
        };
        qcow2::create(path, disk.size(), &options)?;
    }
    let mut start = [0; FORMER.len()];
    DiskFile::open_unlocked(path)?.read_some(0, &mut start)?;
    if start == FORMER {
        return Err(DiskError::BadImage {
            path: path.to_owned(),
            reason: "it is a kept disk of a former version, which had a format of its own; remove it".into(),
        });
    }
    let found = qcow2::base_stamp(path)?.unwrap_or_default();
    if found != stamp {
        let size = |stamp: &[u8]| u64::from_be_bytes(take(stamp, 0));
        let what = if size(&found) == size(&stamp) {
            "its time of change is another".to_owned()
        } else {
            format!("it had {} bytes and has {}", size(&found), size(&stamp))
        };
        return Err(DiskError::BaseChanged { path: path.to_owned(), base: base.to_owned(), what });
    }
    Qcow2Disk::open_over(path, Access::ReadWrite, Some(disk))
}

fn stamp(base: &DiskFile) -> Result<Vec<u8>, DiskError> {
    let mut stamp = base.length()?.to_be_bytes().to_vec();
    if let Some((seconds, nanoseconds)) = base.modified()? {
        stamp.extend(seconds.to_be_bytes());
        stamp.extend(nanoseconds.to_be_bytes());
    }
    Ok(stamp)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::{Disk, RawDisk};

    #[test]
    fn a_base_that_changed_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let (base, path) = (directory.path().join("base"), directory.path().join("kept"));
        std::fs::write(&base, vec![7; 4096]).unwrap();
        let disk = open_kept(&base, Format::Raw, &path).unwrap();
        disk.write_at(512, &[8; 512]).unwrap();
        disk.flush().unwrap();
        assert!(
            matches!(open_kept(&base, Format::Raw, &path), Err(DiskError::InUse { .. })),
            "a writer is alone"
        );
        assert!(RawDisk::open(&base, Access::ReadWrite).is_err(), "the base is not written meanwhile");
        drop(disk);
        let mut data = [0; 1024];
        open_kept(&base, Format::Raw, &path).unwrap().read_at(0, &mut data).unwrap();
        assert_eq!((data[0], data[512]), (7, 8));

        let file = || std::fs::OpenOptions::new().append(true).open(&base).unwrap();
        let time = file().metadata().unwrap().modified().unwrap();
        file().set_modified(time + std::time::Duration::from_nanos(4_000_000)).unwrap();
        let error = open_kept(&base, Format::Raw, &path).unwrap_err();
        assert!(matches!(&error, DiskError::BaseChanged { what, .. } if what.contains("time")), "{error}");
        file().write_all(&[0; 512]).unwrap();
        file().set_modified(time).unwrap();
        let error = open_kept(&base, Format::Raw, &path).unwrap_err();
        assert!(matches!(&error, DiskError::BaseChanged { what, .. } if what.contains("4608")), "{error}");
    }

    #[test]
    fn kept_disks_of_former_versions_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let (base, path) = (directory.path().join("base"), directory.path().join("kept"));
        std::fs::write(&base, vec![7; 4096]).unwrap();
        std::fs::write(&path, b"VIVOVL\r\n\x01\0\0\0").unwrap();
        let error = open_kept(&base, Format::Raw, &path).unwrap_err().to_string();
        assert!(error.contains("former version"), "{error}");
    }
}
