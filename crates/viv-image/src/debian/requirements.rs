//! Programs of the host that the build needs.

use crate::progress::{Progress, Stage};
use crate::tool::{self, Program, Runner};

/// Programs and the Debian packages that have them.
const PROGRAMS: [(&str, &str); 3] =
    [("mmdebstrap", "mmdebstrap"), ("mke2fs", "e2fsprogs"), ("mount", "mount")];
/// Without this one there is nothing to install others with.
const INSTALLER: &str = "apt-get";

/// Why the build cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host is no Debian.
    #[error("the host has no {INSTALLER}: images are built with the package tools of Debian and its kin")]
    NoApt,
    /// A package could not be installed.
    #[error("installing {}, which the build needs", packages.join(" "))]
    Install {
        /// The packages.
        packages: Vec<&'static str>,
        /// Why not.
        source: tool::Error,
    },
    /// Called off.
    #[error(transparent)]
    Tool(tool::Error),
}

/// Installs what is missing, telling the user with which command.
///
/// # Errors
/// If this is no Debian or the packages cannot be installed.
pub fn provide(runner: &Runner<'_>, progress: &dyn Progress) -> Result<(), Error> {
    if !tool::exists(INSTALLER) {
        return Err(Error::NoApt);
    }
    let packages: Vec<&'static str> =
        PROGRAMS.iter().filter(|(program, _)| !tool::exists(program)).map(|(_, package)| *package).collect();
    if packages.is_empty() {
        return Ok(());
    }
    progress.begin(Stage::Tools);
    let install = ["install", "--yes", "--no-install-recommends"];
    progress.note(&format!("{INSTALLER} {} {}", install.join(" "), packages.join(" ")));
    let attempt = || {
        let program = Program::new(INSTALLER).args(install).args(packages.iter().copied());
        runner.run(&program, &mut |_| {})
    };
    let installed = attempt().or_else(|first| {
        if matches!(first, tool::Error::Interrupted { .. }) {
            return Err(first);
        }
        // A fresh machine or container has no package lists.
        progress.note(&format!("{INSTALLER} update"));
        runner.run(&Program::new(INSTALLER).arg("update"), &mut |_| {})?;
        attempt()
    });
    match installed {
        Ok(()) => progress.end(Stage::Tools),
        Err(error @ tool::Error::Interrupted { .. }) => return Err(Error::Tool(error)),
        Err(source) => return Err(Error::Install { packages, source }),
    }
    Ok(())
}
