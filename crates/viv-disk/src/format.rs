//! Which format a file has, and opening it with what lies below.
//!
//! A format is stated: by whoever opens a file, and for a backing file by the image above it. It is never taken from what
//! a file holds alone: the guest that has a raw disk may write the header of an image to its first sector, with any file
//! of the host as its backing file, and would read that after the next start.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::file::DiskFile;
use crate::qcow2::{self, Qcow2Disk};
use crate::vmdk::{self, VmdkDisk};
use crate::{Access, Disk, DiskError, RawDisk};

/// Files in a chain at the most, the one at the top included. It also ends chains that bite their tails.
const MAX_CHAIN: usize = 64;

/// A format of disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The file's bytes are the disk's.
    Raw,
    /// QEMU's.
    Qcow2,
    /// VMware's.
    Vmdk,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Raw, Self::Qcow2, Self::Vmdk];

    /// The format of a file for which none was stated: that of an image if its name ends so (`.qcow2`, `.vmdk`) and it
    /// begins like one, raw if neither is so.
    ///
    /// # Errors
    /// When the file cannot be read; or when its name and its contents do not agree, so that it has to be stated.
    pub fn detect(path: &Path) -> Result<Self, DiskError> {
        let uncertain = |reason: String| DiskError::Format { path: path.to_owned(), reason };
        match (Self::named(path), Self::begins_like(path)?) {
            (named, begins) if named == begins => Ok(named),
            (Self::Raw, begins) => Err(uncertain(format!(
                "it begins like a {begins} image, which the guest of a raw disk may have written"
            ))),
            (named, _) => {
                Err(uncertain(format!("it is named like a {named} image and does not begin like one")))
            }
        }
    }

    /// The format that a name stands for: raw, unless it ends with that of another.
    pub fn named(path: &Path) -> Self {
        let ends = |format: &Self| {
            path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(format.to_string()))
        };
        Self::ALL.into_iter().find(ends).unwrap_or(Self::Raw)
    }

    /// What a file begins like, which only tells what it is if nobody untrusted wrote it.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn begins_like(path: &Path) -> Result<Self, DiskError> {
        let mut start = [0; vmdk::BEGINNING.len()];
        DiskFile::open_unlocked(path)?.read_some(0, &mut start)?;
        Ok(if start.starts_with(&qcow2::MAGIC) {
            Self::Qcow2
        } else if start.starts_with(&vmdk::MAGIC) || start == vmdk::BEGINNING {
            Self::Vmdk
        } else {
            Self::Raw
        })
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
        })
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|format| format.to_string() == text);
        known.ok_or_else(|| format!("the format '{text}' is not known; raw, qcow2 and vmdk are"))
    }
}

/// Opens a disk with all that lies below it.
///
/// # Errors
/// When a file cannot be opened, is in use in a way that excludes `access`, or is no disk of that format; or when its
/// chain of backing files cannot be opened.
pub fn open(path: &Path, format: Format, access: Access) -> Result<Box<dyn Disk>, DiskError> {
    match format {
        Format::Raw => Ok(Box::new(RawDisk::open(path, access)?)),
        Format::Qcow2 => Ok(Box::new(Qcow2Disk::open(path, access)?)),
        Format::Vmdk => Ok(Box::new(VmdkDisk::open(path, access)?)),
    }
}

/// Opens the backing file that the image at `image` names, which is the `depth`th file of its chain.
pub(crate) fn open_backing(
    image: &Path,
    name: &Path,
    format: Option<Result<Format, String>>,
    depth: usize,
) -> Result<Box<dyn Disk>, DiskError> {
    let below = |source| DiskError::Backing { path: image.to_owned(), source: Box::new(source) };
    let path = backing_path(image, name)?;
    if depth >= MAX_CHAIN {
        let reason = format!("it is below {MAX_CHAIN} others, or below itself");
        return Err(below(DiskError::BadImage { path, reason }));
    }
    let format = match format {
        Some(Ok(format)) => format,
        Some(Err(other)) => {
            let reason = format!("its format is said to be '{other}', which is not supported");
            return Err(below(DiskError::BadImage { path, reason }));
        }
        // Taking it for raw shows what is in it, and nothing else of the host.
        None if Format::begins_like(&path).map_err(below)? == Format::Raw => Format::Raw,
        None => {
            let reason = format!(
                "{} does not say its format; say it with `viv disk rebase -u`, if it is to be trusted",
                image.display()
            );
            return Err(below(DiskError::Format { path, reason }));
        }
    };
    match format {
        Format::Raw | Format::Vmdk => open(&path, format, Access::ReadOnly),
        Format::Qcow2 => Qcow2Disk::open_in_chain(&path, Access::ReadOnly, depth.saturating_add(1))
            .map(|disk| Box::new(disk) as Box<dyn Disk>),
    }
    .map_err(below)
}

/// Where the backing file is that an image names: beside the image, unless the name is absolute.
///
/// # Errors
/// When it is not a file's name.
pub fn backing_path(image: &Path, name: &Path) -> Result<PathBuf, DiskError> {
    let bytes = name.as_os_str().as_bytes();
    let plain = bytes.strip_prefix(b"file:").unwrap_or(bytes);
    let first = plain.split(|byte| *byte == b'/').next().unwrap_or_default();
    if first.contains(&b':') {
        return Err(DiskError::BadImage {
            path: image.to_owned(),
            reason: format!(
                "its backing file '{}' is not a file's name, which is not supported",
                name.display()
            ),
        });
    }
    let plain = Path::new(std::ffi::OsStr::from_bytes(plain));
    Ok(image.parent().map_or_else(|| plain.to_owned(), |directory| directory.join(plain)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_what_its_name_and_its_contents_agree_on() {
        let directory = tempfile::tempdir().unwrap();
        let detect = |name: &str, contents: &[u8]| {
            let path = directory.path().join(name);
            std::fs::write(&path, contents).unwrap();
            Format::detect(&path).map_err(|error| error.to_string())
        };
        assert_eq!(detect("a.img", &[0; 512]), Ok(Format::Raw));
        assert_eq!(detect("a.qcow2", b"QFI\xfb\0\0\0\x03"), Ok(Format::Qcow2));
        assert_eq!(detect("A.QCOW2", b"QFI\xfb\0\0\0\x03"), Ok(Format::Qcow2));
        assert_eq!(detect("a.vmdk", b"KDMV\x01"), Ok(Format::Vmdk));
        assert_eq!(detect("b.vmdk", b"# Disk DescriptorFile\nversion=1\n"), Ok(Format::Vmdk));
        assert_eq!(detect("a.raw", b"# Disk Descriptor"), Ok(Format::Raw));
        assert!(detect("a-flat.vmdk", &[0; 512]).unwrap_err().contains("named like"));
        assert!(detect("c.img", b"KDMV\x01").unwrap_err().contains("vmdk image, which the guest"));
        assert!(detect("c.qcow2", b"KDMV\x01").unwrap_err().contains("named like a qcow2"));
        assert!(detect("b.img", b"QFI\xfb\0\0\0\x03").unwrap_err().contains("guest"));
        assert!(detect("b.qcow2", &[0; 512]).unwrap_err().contains("named like"));
    }

    #[test]
    fn backing_files_are_beside_their_image() {
        let path = |name| backing_path(Path::new("/images/top.qcow2"), Path::new(name)).ok();
        assert_eq!(path("base.img"), Some("/images/base.img".into()));
        assert_eq!(path("/other/base.img"), Some("/other/base.img".into()));
        assert_eq!(path("file:../base.img"), Some("/images/../base.img".into()));
        assert_eq!(path("./a:b"), Some("/images/./a:b".into()));
        assert_eq!(path("json:{}"), None);
        assert_eq!(path("nbd://host/x"), None);
    }
}
