//! Debian's kernel for virtual machines.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::files;
use crate::progress::{Progress, Stage};
use crate::tool::{self, Runner};

use super::apt::{self, Apt};
use super::deb;

/// The package that always depends on the newest such kernel.
const PACKAGE: &str = "linux-image-cloud-amd64";
/// How the names of kernel packages begin.
const FAMILY: &str = "linux-image-";
/// How the kernel's file name begins, before its version.
const IMAGE: &str = "vmlinuz-";

/// Why there is no kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The package does not hold what a kernel package does.
    #[error("package {package} holds no kernel")]
    Missing {
        /// The package.
        package: String,
    },
    /// The archive.
    #[error(transparent)]
    Apt(#[from] apt::Error),
    /// The package.
    #[error(transparent)]
    Package(#[from] deb::Error),
    /// Fetching it.
    #[error(transparent)]
    Tool(#[from] tool::Error),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] files::Error),
}

/// An unpacked kernel.
#[derive(Debug)]
pub struct Kernel {
    /// As `uname -r` tells it.
    pub version: String,
    /// The bzImage.
    pub image: PathBuf,
    /// The directory with its modules.
    pub modules: PathBuf,
}

/// Fetches the kernel's package and unpacks it below `directory`.
///
/// # Errors
/// If it cannot be fetched or is none.
pub fn fetch(
    apt: &Apt,
    directory: &Path,
    runner: &Runner<'_>,
    progress: &dyn Progress,
) -> Result<Kernel, Error> {
    progress.begin(Stage::Kernel);
    files::create_dir_all(directory)?;
    let package = apt.dependency(PACKAGE, FAMILY, runner)?;
    let download = apt.program("apt-get").args(["download", &package]).directory(directory);
    runner.run(&download, &mut |_| {})?;
    let missing = || Error::Missing { package: package.clone() };
    let is_package = |path: &PathBuf| path.extension() == Some(OsStr::new("deb"));
    let file = files::entries(directory)?.into_iter().find(is_package).ok_or_else(missing)?;
    let kernel = unpack(&file, &directory.join("unpacked"))?.ok_or_else(missing)?;
    progress.end(Stage::Kernel);
    Ok(kernel)
}

/// Unpacks the kernel and its modules from a package; nothing if there is no kernel in it.
fn unpack(package: &Path, directory: &Path) -> Result<Option<Kernel>, Error> {
    let mut image = None;
    deb::for_each_file(package, |path, content| {
        let is_image = path.parent() == Some(Path::new("boot"))
            && path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with(IMAGE));
        // Newer releases have everything below usr.
        let is_module = path.strip_prefix("usr").unwrap_or(path).starts_with("lib/modules");
        if !is_image && !is_module {
            return Ok(());
        }
        let target = directory.join(path.strip_prefix("usr").unwrap_or(path));
        files::create_dir_all(target.parent().unwrap_or(directory))?;
        let mut file = File::create(&target).map_err(files::at("creating", &target))?;
        io::copy(content, &mut file).map_err(files::at("unpacking", &target))?;
        if is_image {
            image = Some(target);
        }
        Ok(())
    })?;
    let Some(image) = image else { return Ok(None) };
    let name = image.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let version = name.trim_start_matches(IMAGE).to_owned();
    let modules = directory.join("lib/modules").join(&version);
    Ok(modules.is_dir().then_some(Kernel { version, image, modules }))
}
