//! Images and what lies below them: merging one into its backing file, and giving it another.

use std::path::Path;

use crate::bytes::index;
use crate::format::{backing_path, open_backing};
use crate::qcow2::{self, Qcow2Disk};
use crate::{Access, Disk, DiskError, Format, open, resize_raw};

/// How much is copied at once.
const PIECE: u64 = 1 << 20;
/// In what pieces two disks are compared.
const COMPARED: usize = 64 << 10;

/// Writes what the image at `path` holds into its backing file, and empties it. `progress` is told how far it is, in bytes
/// of the disk.
///
/// # Errors
/// When it has no backing file, or one of the files cannot be written.
pub fn commit(path: &Path, progress: &mut dyn FnMut(u64)) -> Result<(), DiskError> {
    let info = qcow2::info(path)?;
    let bad = |reason: &str| DiskError::BadImage { path: path.to_owned(), reason: reason.to_owned() };
    let name = info.backing.ok_or_else(|| bad("it has no backing file to write to"))?;
    let below = backing_path(path, &name)?;
    let Some(Ok(format)) = info.backing_format else {
        return Err(bad("it does not say the format of its backing file; say it with `viv disk rebase -u`"));
    };
    // To be emptied later, so that nobody else may write to it meanwhile.
    let image = Qcow2Disk::open_over(path, Access::ReadWrite, None)?;
    let mut backing = open(&below, format, Access::ReadWrite)?;
    if backing.size() < image.size() {
        drop(backing);
        match format {
            Format::Raw => resize_raw(&below, image.size(), false)?,
            Format::Qcow2 => qcow2::resize(&below, image.size(), false)?,
            Format::Vmdk => return Err(bad("its backing file is smaller, and a vmdk image does not grow")),
        }
        backing = open(&below, format, Access::ReadWrite)?;
    }
    let mut offset = 0;
    while let Some(own) = image.own_from(offset)? {
        let length = own.end.saturating_sub(own.start).min(PIECE);
        let end = own.start.saturating_add(length);
        if image.data_from(own.start)?.is_some_and(|data| data.start < end) {
            let mut data = vec![0; index(length)];
            image.read_at(own.start, &mut data)?;
            backing.write_at(own.start, &data)?;
        } else {
            backing.write_zeroes(own.start, length, true)?;
        }
        progress(end);
        offset = end;
    }
    backing.flush()?;
    image.make_empty()
}

/// Gives the image at `path` another backing file, or none. It reads as before: what differs below is copied into it.
///
/// # Errors
/// When one of the files cannot be used.
pub fn rebase(
    path: &Path,
    to: Option<(&Path, Format)>,
    progress: &mut dyn FnMut(u64),
) -> Result<(), DiskError> {
    let image = Qcow2Disk::open(path, Access::ReadWrite)?;
    let new = to.map(|(name, format)| open_backing(path, name, Some(Ok(format)), 1)).transpose()?;
    let (mut before, mut after) = (vec![0; COMPARED], vec![0; COMPARED]);
    let mut offset = 0_u64;
    while offset < image.size() {
        let left = image.size().saturating_sub(offset);
        let length = COMPARED.min(index(left));
        let (before, after) =
            (before.get_mut(..length).unwrap_or_default(), after.get_mut(..length).unwrap_or_default());
        let end = offset.saturating_add(length as u64);
        if image.shows_backing(offset, end)? {
            image.read_at(offset, before)?;
            read_below(new.as_deref(), offset, after)?;
            if before != after {
                image.write_at(offset, before)?;
            }
        }
        progress(end);
        offset = end;
    }
    image.flush()?;
    drop(image);
    qcow2::set_backing(path, to)
}

/// What a backing file shows: zeroes behind its end.
fn read_below(disk: Option<&dyn Disk>, offset: u64, data: &mut [u8]) -> Result<(), DiskError> {
    data.fill(0);
    let Some(disk) = disk else { return Ok(()) };
    let there = index(disk.size().saturating_sub(offset)).min(data.len());
    match data.get_mut(..there) {
        Some(part) if !part.is_empty() => disk.read_at(offset, part),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qcow2::{CreateOptions, create};

    #[test]
    fn images_are_merged_and_moved() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("base"), vec![1; 200_192]).unwrap();
        std::fs::write(at("other"), vec![2; 100_352]).unwrap();
        let options =
            CreateOptions { backing: Some(("base".into(), Format::Raw)), ..CreateOptions::default() };
        create(&at("top.qcow2"), 300_032, &options).unwrap();
        let image = Qcow2Disk::open(&at("top.qcow2"), Access::ReadWrite).unwrap();
        image.write_at(70_000, &[5; 1000]).unwrap();
        image.write_zeroes(131_072, 65536, true).unwrap();
        drop(image);
        let read = || {
            let image = open(&at("top.qcow2"), Format::Qcow2, Access::ReadOnly).unwrap();
            let mut data = vec![0xee; image.size() as usize];
            image.read_at(0, &mut data).unwrap();
            data
        };
        let before = read();
        rebase(&at("top.qcow2"), Some((Path::new("other"), Format::Raw)), &mut |_| {}).unwrap();
        assert!(read() == before);
        commit(&at("top.qcow2"), &mut |_| {}).unwrap();
        assert!(read() == before);
        assert!(std::fs::read(at("other")).unwrap() == before);
        assert!(std::fs::read(at("base")).unwrap() == [1; 200_192]);
        rebase(&at("top.qcow2"), None, &mut |_| {}).unwrap();
        assert!(read() == before);
        assert!(commit(&at("top.qcow2"), &mut |_| {}).unwrap_err().to_string().contains("no backing file"));
    }
}
