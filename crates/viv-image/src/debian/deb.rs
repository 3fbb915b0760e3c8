//! Reading Debian packages (deb(5)): an `ar` archive with a compressed tar archive in it.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use crate::files;

/// What the member with the package's files is called, before the ending that tells its compression.
const DATA: &str = "data.tar";

/// Why a package cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such member, or it is compressed in an unknown way.
    #[error("reading package {}: it has no {DATA} of a known kind", .0.display())]
    NoData(PathBuf),
    /// A file in it has no place below the root.
    #[error("reading package {}: it holds a file called {}", package.display(), file.display())]
    StrayFile {
        /// The package.
        package: PathBuf,
        /// The file.
        file: PathBuf,
    },
    /// It could not be read, or what was made of it not written.
    #[error(transparent)]
    File(#[from] files::Error),
}

/// Calls `visit` with every regular file of a package: its path, relative to the root, and its content.
///
/// # Errors
/// If the package is not one, or `visit` fails.
pub fn for_each_file(
    package: &Path,
    mut visit: impl FnMut(&Path, &mut dyn Read) -> Result<(), files::Error>,
) -> Result<(), Error> {
    let file = File::open(package).map_err(files::at("opening package", package))?;
    let reading = || files::at::<io::Error>("reading package", package);
    let mut members = ar::Archive::new(io::BufReader::new(file));
    while let Some(member) = members.next_entry() {
        let member = member.map_err(reading())?;
        let name = String::from_utf8_lossy(member.header().identifier()).into_owned();
        let Some(compression) = name.trim_end_matches('/').strip_prefix(DATA) else { continue };
        let data: Box<dyn Read + '_> = match compression {
            "" => Box::new(member),
            ".xz" => Box::new(liblzma::read::XzDecoder::new(member)),
            ".zst" => Box::new(zstd::Decoder::new(member).map_err(reading())?),
            _ => continue,
        };
        let mut archive = tar::Archive::new(data);
        for entry in archive.entries().map_err(reading())? {
            let mut entry = entry.map_err(reading())?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let path = entry.path().map_err(reading())?.into_owned();
            let relative = relative(&path)
                .ok_or_else(|| Error::StrayFile { package: package.to_owned(), file: path.clone() })?;
            visit(&relative, &mut entry)?;
        }
        return Ok(());
    }
    Err(Error::NoData(package.to_owned()))
}

/// The path without `./` and the like; none if it leads out of the root.
fn relative(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(clean)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A package with these members.
    fn package(at: &Path, members: &[(&str, Vec<u8>)]) {
        let mut archive = ar::Builder::new(File::create(at).unwrap());
        for (name, content) in members {
            let header = ar::Header::new(name.as_bytes().to_vec(), content.len() as u64);
            archive.append(&header, content.as_slice()).unwrap();
        }
    }

    fn data(path: &str) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        header.set_mode(0o644);
        // The builder's own way refuses the paths that matter here.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        archive.append(&header, &b"abc"[..]).unwrap();
        archive.into_inner().unwrap()
    }

    fn read(members: &[(&str, Vec<u8>)]) -> Result<Vec<(PathBuf, String)>, Error> {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("x.deb");
        package(&path, members);
        let mut found = Vec::new();
        for_each_file(&path, |path, content| {
            let mut text = String::new();
            content.read_to_string(&mut text).map_err(files::at("reading", path))?;
            found.push((path.to_owned(), text));
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn files_come_out_of_every_compression() {
        let plain = data("./boot/vmlinuz-1");
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&plain).unwrap();
        let zst = zstd::encode_all(plain.as_slice(), 1).unwrap();
        for (name, bytes) in
            [("data.tar", plain), ("data.tar.xz", xz.finish().unwrap()), ("data.tar.zst", zst)]
        {
            let found = read(&[("debian-binary", b"2.0\n".to_vec()), (name, bytes)]).unwrap();
            assert_eq!(found, [("boot/vmlinuz-1".into(), "abc".into())], "{name}");
        }
    }

    #[test]
    fn files_outside_the_root_are_refused() {
        let error = read(&[("data.tar", data("../etc/passwd"))]).unwrap_err();
        assert!(matches!(error, Error::StrayFile { .. }), "{error}");
    }

    #[test]
    fn what_is_no_package_is_an_error() {
        assert!(matches!(read(&[("control.tar.xz", vec![])]), Err(Error::NoData(_))));
        assert!(matches!(read(&[("data.tar.lz9", vec![])]), Err(Error::NoData(_))));
        assert!(matches!(read(&[("data.tar.xz", b"garbage".to_vec())]), Err(Error::File(_))));
    }
}
