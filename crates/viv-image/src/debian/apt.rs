//! A private apt: the host's transports, proxies and keys, but sources, lists and caches of its own.
//!
//! The host's lists are neither used nor changed, and hooks that the host runs around apt are not run.

use std::path::{Path, PathBuf};

use crate::files;
use crate::progress::{Progress, Stage};
use crate::tool::{self, Program, Runner};

use super::sources::Archives;

/// Host settings that do not concern how archives are reached.
const NOT_TAKEN: [&str; 6] = [
    "Acquire::IndexTargets",
    "Acquire::Changelogs",
    "Acquire::CompressionTypes",
    "Acquire::Languages",
    "Acquire::GzipIndexes",
    "Acquire::cdrom",
];
/// What Debian's archive calls itself (field `Origin` of its `Release` file).
const ORIGIN: &str = "Debian";

/// Why packages cannot be fetched.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No index could be read.
    #[error("no archive that the host's apt is configured for could be reached for {suites}")]
    Unreachable {
        /// What was looked for.
        suites: String,
        /// What apt said.
        source: tool::Error,
    },
    /// Indexes were read, but none of them is Debian's of this release.
    #[error("none of the archives that the host's apt is configured for serves Debian {suites}; apt's log is {}", log.display())]
    NotDebian {
        /// What was looked for.
        suites: String,
        /// What apt said.
        log: PathBuf,
    },
    /// A package is not in the index.
    #[error("the archive's {package} depends on no package that begins with {wanted:?}")]
    NoDependency {
        /// The package.
        package: String,
        /// What it should depend on.
        wanted: String,
    },
    /// Apt failed.
    #[error(transparent)]
    Tool(#[from] tool::Error),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] files::Error),
}

/// A private apt with the index of Debian's archives.
#[derive(Clone, Debug)]
pub struct Apt {
    archives: Archives,
    configuration: PathBuf,
    acquire: PathBuf,
    sources: PathBuf,
}

impl Apt {
    /// Sets up an apt in this directory for these archives, reads their index, and drops the archives that
    /// turn out not to be Debian's.
    ///
    /// # Errors
    /// If none is left.
    pub fn set_up(
        directory: &Path,
        archives: Archives,
        runner: Runner<'_>,
        progress: &dyn Progress,
    ) -> Result<Self, Error> {
        progress.begin(Stage::Index);
        for part in ["lists/partial", "cache/archives/partial", "empty"] {
            files::create_dir_all(&directory.join(part))?;
        }
        let mut apt = Self {
            archives,
            configuration: directory.join("apt.conf"),
            acquire: directory.join("acquire.conf"),
            sources: directory.join("debian.sources"),
        };
        let host = runner.query(&Program::new("apt-config").arg("dump"))?;
        let acquire = acquire_settings(&host);
        files::write(&apt.acquire, acquire.as_bytes())?;
        files::write(&apt.configuration, configuration(directory, &apt.sources, &acquire).as_bytes())?;
        files::write(&directory.join("status"), b"")?;
        apt.write_sources()?;

        let update = apt.program("apt-get").args(["update", "--error-on=any"]);
        let updated = runner.run(&update, &mut |_| {});
        if let Err(error @ (tool::Error::Interrupted { .. } | tool::Error::Start { .. })) = updated {
            return Err(error.into());
        }
        let targets = runner.query(&apt.program("apt-get").args([
            "indextargets",
            "--format",
            "$(REPO_URI) $(RELEASE) $(ORIGIN)",
            "Created-By: Packages",
        ]))?;
        let wanted = apt.archives.clone();
        apt.archives.retain(|entry| is_debian(&targets, &entry.uri, &entry.suite));
        if !apt.archives.has_release() {
            let suites = wanted.suites();
            // Some archive failed; if the needed one did not, it is no Debian's.
            return Err(match updated {
                Err(source) => Error::Unreachable { suites, source },
                Ok(()) => Error::NotDebian { suites, log: runner.log().to_owned() },
            });
        }
        apt.write_sources()?;
        progress.end(Stage::Index);
        Ok(apt)
    }

    /// A program of apt's, with this configuration.
    #[must_use]
    pub fn program(&self, name: &str) -> Program {
        Program::new(name).env("APT_CONFIG", &self.configuration)
    }

    /// The archives in use.
    #[must_use]
    pub fn archives(&self) -> &Archives {
        &self.archives
    }

    /// The file that lists them.
    #[must_use]
    pub fn sources(&self) -> &Path {
        &self.sources
    }

    /// The file with the host's settings for reaching archives.
    #[must_use]
    pub fn acquire(&self) -> &Path {
        &self.acquire
    }

    /// The package that a package depends on whose name begins so.
    ///
    /// # Errors
    /// If there is none.
    pub fn dependency(&self, package: &str, wanted: &str, runner: &Runner<'_>) -> Result<String, Error> {
        let answer = runner.query(&self.program("apt-cache").args(["depends", "--important", package]))?;
        first_dependency(&answer, wanted)
            .ok_or_else(|| Error::NoDependency { package: package.into(), wanted: wanted.into() })
    }

    fn write_sources(&self) -> Result<(), files::Error> {
        files::write(&self.sources, self.archives.to_stanzas(|path| Some(path.to_owned())).as_bytes())
    }
}

/// The lines of `apt-config dump` that say how archives are reached.
fn acquire_settings(dump: &str) -> String {
    let taken =
        |line: &&str| line.starts_with("Acquire::") && !NOT_TAKEN.iter().any(|name| line.starts_with(name));
    let mut settings: String = dump.lines().filter(taken).flat_map(|line| [line, "\n"]).collect();
    settings.push_str("Acquire::Languages \"none\";\n");
    settings
}

/// A configuration that stands alone: `APT_CONFIG` is read first, and directs apt away from the host's files.
fn configuration(directory: &Path, sources: &Path, acquire: &str) -> String {
    let at = |name: &str| directory.join(name).display().to_string();
    format!(
        "Dir::Etc::parts \"{empty}\";\nDir::Etc::main \"/dev/null\";\n\
         Dir::Etc::sourcelist \"{sources}\";\nDir::Etc::sourceparts \"{empty}\";\n\
         Dir::Etc::preferences \"/dev/null\";\nDir::Etc::preferencesparts \"{empty}\";\n\
         Dir::State::lists \"{lists}\";\nDir::State::status \"{status}\";\nDir::Cache \"{cache}\";\n\
         APT::Architecture \"amd64\";\nAPT::Architectures {{ \"amd64\"; }};\n{acquire}",
        empty = at("empty"),
        sources = sources.display(),
        lists = at("lists"),
        status = at("status"),
        cache = at("cache"),
    )
}

/// Whether the index says that this archive is Debian's, in lines of place, release and origin.
fn is_debian(targets: &str, uri: &str, suite: &str) -> bool {
    targets.lines().any(|line| {
        let mut words = line.split(' ');
        words.next().is_some_and(|place| place.trim_end_matches('/') == uri.trim_end_matches('/'))
            && words.next() == Some(suite)
            && words.next() == Some(ORIGIN)
    })
}

fn first_dependency(answer: &str, wanted: &str) -> Option<String> {
    let names =
        answer.lines().filter_map(|line| line.trim_start().trim_start_matches('|').strip_prefix("Depends: "));
    names.map(str::trim).find(|name| name.starts_with(wanted)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_for_reaching_archives_are_taken_and_others_are_not() {
        let dump = "APT::Architecture \"amd64\";\nAcquire::http::Proxy \"http://proxy.invalid:3128\";\n\
                    Acquire::IndexTargets::deb \"\";\nAcquire::Languages:: \"de\";\nAcquire::Retries \"5\";\n";
        assert_eq!(
            acquire_settings(dump),
            "Acquire::http::Proxy \"http://proxy.invalid:3128\";\nAcquire::Retries \"5\";\nAcquire::Languages \"none\";\n"
        );
    }

    #[test]
    fn archives_are_debians_by_their_own_word() {
        let targets = "http://m.invalid/debian/ bookworm Debian\nhttp://o.invalid/ bookworm Other Company\n";
        assert!(is_debian(targets, "http://m.invalid/debian", "bookworm"));
        assert!(!is_debian(targets, "http://m.invalid/debian", "trixie"));
        assert!(!is_debian(targets, "http://o.invalid", "bookworm"));
    }

    #[test]
    fn the_kernel_behind_the_name_is_found() {
        let answer = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-1-cloud-amd64\n |Depends: x\n";
        assert_eq!(
            first_dependency(answer, "linux-image-").as_deref(),
            Some("linux-image-6.1.0-1-cloud-amd64")
        );
        assert_eq!(first_dependency(answer, "x").as_deref(), Some("x"));
        assert_eq!(first_dependency("", "linux-image-"), None);
    }
}
