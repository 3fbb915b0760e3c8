//! Building a Debian image.
//!
//! 1. [`sources`]: read which archives the host's apt uses, and name the wanted release instead of the host's.
//! 2. [`apt`]: read those archives' index with a private apt, whose state is apart from the host's; keep the
//!    ones that are Debian's.
//! 3. At the same time [`root`], the root file system by `mmdebstrap`, and [`kernel`], Debian's cloud kernel
//!    out of its package ([`deb`]).
//! 4. [`modules`]: pick the modules for the initial RAM disk.
//! 5. [`disk`]: write the root file system into an ext4 image, with neither a mount nor a loop device.
//!
//! Nothing here is atomic; `Store` gives it a directory that is thrown away if it fails.

pub mod apt;
pub mod deb;
pub mod disk;
pub mod kernel;
pub mod modules;
pub mod requirements;
pub mod root;
pub mod sources;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::SystemTime;

use crate::image::{self, Metadata};
use crate::name::ImageName;
use crate::progress::Progress;
use crate::tool::{self, Runner};
use crate::{files, initrd};

use apt::Apt;

/// Free space below which a build is not begun, in bytes. One takes about 0.9 GB at its height.
const SPACE: u64 = 1_000_000_000;
/// Free space, in bytes, below which a failed step is put down to it.
const NO_SPACE: u64 = 4 << 20;

/// Why an image could not be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Only root can make files that belong to others.
    #[error("it needs root, who alone can give files to other users; build it once as root, as with sudo")]
    NotRoot,
    /// The disk is full, or about to be.
    #[error("the disk is full: {} has {free} MB left, a build needs {} MB; nothing was left behind", path.display(), SPACE / 1_000_000)]
    DiskFull {
        /// Where.
        path: PathBuf,
        /// Free space in megabytes.
        free: u64,
    },
    /// The user called it off.
    #[error("interrupted; nothing was left behind")]
    Interrupted,
    /// A program the build needs is missing.
    #[error(transparent)]
    Requirements(#[from] requirements::Error),
    /// The host's apt configuration.
    #[error(transparent)]
    Sources(#[from] sources::Error),
    /// The archive.
    #[error(transparent)]
    Apt(#[from] apt::Error),
    /// The kernel.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// The kernel's modules.
    #[error(transparent)]
    Modules(#[from] modules::Error),
    /// A program failed.
    #[error(transparent)]
    Tool(#[from] tool::Error),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] files::Error),
}

/// Builds the image into an empty directory: kernel, modules, root disk and, last, its description. What
/// programs say goes to `log` with the endings `.log` and `-kernel.log`.
///
/// # Errors
/// As [`Error`] says; the directory's content is worthless then.
pub fn build(name: ImageName, directory: &Path, log: &Path, progress: &dyn Progress) -> Result<(), Error> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    let free = files::free_bytes(directory)?;
    if free < SPACE {
        return Err(Error::DiskFull { path: directory.to_owned(), free: free / 1_000_000 });
    }
    let stop = AtomicBool::new(false);
    assemble(name, directory, log, progress, &stop).map_err(|error| plain(error, directory))
}

/// The steps. Setting `stop` ends those that run.
fn assemble(
    name: ImageName,
    directory: &Path,
    log: &Path,
    progress: &dyn Progress,
    stop: &AtomicBool,
) -> Result<(), Error> {
    let (log, kernel_log) = (log.with_extension("log"), log.with_extension("kernel.log"));
    for old in [&log, &kernel_log] {
        files::write(old, b"")?;
    }
    let scratch = directory.join("scratch");
    files::create_dir_all(&scratch)?;
    let runner = Runner::new(&log, &scratch, progress, stop);
    requirements::provide(&runner, progress)?;

    let archives = sources::of_host(&runner)?.for_suite(name.suite());
    let apt = Apt::set_up(&scratch.join("apt"), archives, runner, progress)?;

    let root = scratch.join("root");
    let kernel_runner = runner.with_log(&kernel_log);
    let kernel = thread::scope(|scope| {
        let kernel = scope.spawn(|| {
            let fetched = kernel::fetch(&apt, &scratch.join("kernel"), &kernel_runner, progress);
            stop.fetch_or(fetched.is_err(), Ordering::Relaxed);
            fetched
        });
        let installed = root::install(&root, name.suite(), &root::PACKAGES, &apt, &runner, progress);
        stop.fetch_or(installed.is_err(), Ordering::Relaxed);
        let fetched = kernel.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // If one failed the other was interrupted, and the cause is the one to tell.
        match (installed, fetched) {
            (Err(tool::Error::Interrupted { .. }), Err(error)) => Err(Error::from(error)),
            (Err(error), _) => Err(error.into()),
            (Ok(()), fetched) => Ok(fetched?),
        }
    })?;

    root::add_modules(&root, &kernel, &runner)?;
    root::configure(&root, &apt)?;
    let needed = modules::select(&root.join(root::MODULES).join(&kernel.version))?;
    let archive = directory.join(image::MODULES);
    let bytes = initrd::modules(&needed).map_err(files::at("building", &archive))?;
    files::write(&archive, &bytes)?;
    files::rename(&kernel.image, &directory.join(image::KERNEL))?;

    let root_size = disk::write(&root, &directory.join(image::ROOT), &runner, progress)?;
    files::remove_tree(&scratch)?;
    describe(name, directory, kernel.version, root_size)
}

/// Writes the description and brings everything to the disk: from here on the image is complete.
fn describe(name: ImageName, directory: &Path, kernel_version: String, root_size: u64) -> Result<(), Error> {
    let created = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |age| age.as_secs());
    let metadata = Metadata {
        format: image::FORMAT,
        name: name.to_string(),
        suite: name.suite().into(),
        kernel_version,
        created,
        root_size,
        stored_size: files::stored_bytes(directory)?,
    };
    let path = directory.join(image::METADATA);
    let text = serde_json::to_vec_pretty(&metadata).map_err(files::at("writing", &path))?;
    files::write(&path, &text)?;
    // A power cut after the renaming that follows must not leave an image of empty files.
    for file in files::entries(directory)?.iter().map(PathBuf::as_path).chain([directory]) {
        let handle = File::open(file).map_err(files::at("opening", file))?;
        handle.sync_all().map_err(files::at("writing back", file))?;
    }
    Ok(())
}

/// Puts a failure down to its plain cause where there is one.
fn plain(error: Error, directory: &Path) -> Error {
    if interrupted(&error) {
        return Error::Interrupted;
    }
    let free = files::free_bytes(directory).unwrap_or(u64::MAX);
    if free < NO_SPACE || out_of_space(&error) {
        return Error::DiskFull { path: directory.to_owned(), free: free / 1_000_000 };
    }
    error
}

fn interrupted(error: &Error) -> bool {
    causes(error).any(|cause| matches!(cause.downcast_ref(), Some(tool::Error::Interrupted { .. })))
}

fn out_of_space(error: &Error) -> bool {
    causes(error).any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|io| matches!(io.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
            || matches!(
                cause.downcast_ref(),
                Some(tool::Error::Failed { tail, .. })
                    if tail.contains("No space left on device") || tail.contains("Disk quota exceeded")
            )
    })
}

/// An error and what it was caused by. (`transparent` errors hide themselves from the chain of sources, so
/// the ones that carry a tool's are opened by hand.)
fn causes(error: &Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    let first: &(dyn std::error::Error + 'static) = match error {
        Error::Tool(tool)
        | Error::Requirements(requirements::Error::Tool(tool))
        | Error::Sources(sources::Error::Tool(tool))
        | Error::Apt(apt::Error::Tool(tool))
        | Error::Kernel(kernel::Error::Tool(tool) | kernel::Error::Apt(apt::Error::Tool(tool))) => tool,
        Error::Apt(apt::Error::Unreachable { source, .. }) => source,
        other => other,
    };
    std::iter::successors(Some(first), |error| error.source())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    fn failed(tail: &str) -> tool::Error {
        tool::Error::Failed {
            program: "mmdebstrap".into(),
            status: ExitStatus::from_raw(256),
            log: "log".into(),
            tail: tail.into(),
        }
    }

    #[test]
    fn a_full_disk_is_named_whoever_met_it() {
        let home = tempfile::tempdir().unwrap();
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let causes = [
            Error::Tool(failed("dpkg: error: No space left on device")),
            Error::Kernel(kernel::Error::Tool(failed("write: No space left on device"))),
            Error::File(files::at("writing", home.path())(full)),
        ];
        for error in causes {
            assert!(matches!(plain(error, home.path()), Error::DiskFull { .. }));
        }
        let other = plain(Error::Tool(failed("segmentation fault")), home.path());
        assert!(matches!(other, Error::Tool(_)));
    }

    #[test]
    fn an_interruption_is_named_wherever_it_fell() {
        let interrupted = || tool::Error::Interrupted { program: "apt-get".into() };
        for error in [Error::Tool(interrupted()), Error::Apt(apt::Error::Tool(interrupted()))] {
            assert!(matches!(plain(error, Path::new("/")), Error::Interrupted));
        }
    }
}
