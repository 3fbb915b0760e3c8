//! Root file systems that programs are run in: Debian, as an ext4 disk.
//!
//! One is built from the host's own package archive as images of `viv` are, once, and kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, ensure};
use viv_image::debian::apt::Apt;
use viv_image::debian::{disk, requirements, root, sources};
use viv_image::tool::{Program, Runner};
use viv_image::{ImageName, Progress, Stage};

use crate::kept;

/// Where the sources of packages are, each in a directory of its package's name.
const SOURCES: &str = "usr/src";

/// What a root file system is made of.
#[derive(Debug, Default)]
pub struct Recipe<'a> {
    /// Packages, beyond those that Debian marks as essential.
    pub packages: &'a [&'a str],
    /// Packages whose authors' sources are in `/usr/src`.
    pub sources: &'a [&'a str],
    /// Programs in C that are built in it.
    pub programs: &'a [BuiltProgram],
}

/// A program that is built in the root file system, whose libraries it uses.
#[derive(Debug)]
pub struct BuiltProgram {
    /// Its source.
    pub source: String,
    /// Where it goes.
    pub file: &'static str,
    /// What it is linked with.
    pub libraries: &'static [&'static str],
}

impl Recipe<'_> {
    /// Changes with everything that the disk follows from.
    pub(crate) fn made_of(&self, suite: &str) -> String {
        format!("{suite}\n{self:#?}\n")
    }
}

/// The disk, built if there is none of this recipe in `directory`.
///
/// # Errors
/// If it cannot be built; what failed is in the log below `directory`.
pub fn provide(recipe: &Recipe<'_>, directory: &Path, image: ImageName) -> Result<PathBuf> {
    let suite = image.suite();
    kept::provide(directory, "root.ext4", &recipe.made_of(suite), |workplace, file| {
        with_tools(workplace, |runner| {
            let (tree, _) = install(recipe, suite, workplace, runner)?;
            disk::write(&tree, file, runner, &Told)?;
            Ok(())
        })
    })
}

/// Has `work` done by the system's own programs, which log into `workplace`; installs those that Debian's root file
/// system needs.
pub(crate) fn with_tools(workplace: &Path, work: impl FnOnce(&Runner<'_>) -> Result<()>) -> Result<()> {
    let (log, stop) = (workplace.join("log"), AtomicBool::new(false));
    let runner = Runner::new(&log, workplace, &Told, &stop);
    requirements::provide(&runner, &Told)?;
    work(&runner)
}

/// Installs what the recipe says into a directory, and returns it with the apt that packages came from.
pub(crate) fn install(
    recipe: &Recipe<'_>,
    suite: &str,
    workplace: &Path,
    runner: &Runner<'_>,
) -> Result<(PathBuf, Apt)> {
    let archives = sources::of_host(runner)?.for_suite(suite);
    let apt = Apt::set_up(&workplace.join("apt"), archives, *runner, &Told)?;
    let tree = workplace.join("root");
    root::install(&tree, suite, recipe.packages, &apt, runner, &Told)?;
    if !recipe.sources.is_empty() {
        add_sources(recipe.sources, &apt, workplace, &tree, runner)?;
    }
    for program in recipe.programs {
        fs::write(tree.join("tmp/program.c"), &program.source)
            .context("writing into the root file system")?;
        let words = ["gcc", "-O2", "-o", program.file, "/tmp/program.c"];
        let gcc = Program::new("chroot").arg(&tree).args(words).args(program.libraries);
        runner.run(&gcc, &mut |_| {})?;
    }
    Ok((tree, apt))
}

/// Fetches the sources of packages and unpacks them as their authors published them, without Debian's changes: what
/// those touch a build would make anew, for which it needs more programs.
fn add_sources(
    packages: &[&str],
    apt: &Apt,
    workplace: &Path,
    tree: &Path,
    runner: &Runner<'_>,
) -> Result<()> {
    let list = workplace.join("source.sources");
    let stanzas = fs::read_to_string(apt.sources()).context("reading the list of archives")?;
    fs::write(&list, source_stanzas(&stanzas)).with_context(|| format!("writing {}", list.display()))?;
    let option = format!("Dir::Etc::sourcelist={}", list.display());
    let get = |words: &[&str]| apt.program("apt-get").args(["-o", &option]).args(words);
    runner.run(&get(&["update", "--error-on=any"]), &mut |_| {})?;
    for &package in packages {
        let fetched = workplace.join("source").join(package);
        let target = tree.join(SOURCES).join(package);
        for directory in [&fetched, &target] {
            fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
        }
        // It is put where apt is run.
        let fetch = get(&["source", "--download-only", package]).directory(&fetched);
        runner.run(&fetch, &mut |_| {})?;
        let archive = fs::read_dir(&fetched)
            .with_context(|| format!("listing {}", fetched.display()))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| is_original(&path.file_name().unwrap_or_default().to_string_lossy()));
        ensure!(archive.is_some(), "the archive's source of {package} has no original");
        let unpack = Program::new("tar").args(["--strip-components=1", "--no-same-owner", "-xf"]);
        runner.run(&unpack.args(archive).arg("-C").arg(&target), &mut |_| {})?;
    }
    Ok(())
}

/// Stanzas of the same archives, for sources instead of packages.
fn source_stanzas(stanzas: &str) -> String {
    let line =
        |line: &str| if line == "Types: deb" { "Types: deb-src\n".into() } else { format!("{line}\n") };
    stanzas.lines().map(line).collect()
}

/// Whether a file of a source package is what the authors published, and not a signature of it.
fn is_original(name: &str) -> bool {
    name.split_once(".orig.tar.").is_some_and(|(_, ending)| !ending.contains('.'))
}

/// Tells the user on standard error what is going on.
#[derive(Debug)]
pub struct Told;

impl Progress for Told {
    fn begin(&self, stage: Stage) {
        eprintln!("{stage} …");
    }

    fn advance(&self, _: Stage, _: f64) {}

    fn end(&self, _: Stage) {}

    fn note(&self, text: &str) {
        eprintln!("$ {text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_another_if_anything_in_it_is() {
        let program = |source: &str| [BuiltProgram { source: source.into(), file: "/p", libraries: &[] }];
        let (one, other) = (program("1"), program("2"));
        let base = || Recipe { packages: &["a"], sources: &[], programs: &one };
        let variants = [
            base().made_of("y"),
            Recipe { packages: &["a", "b"], ..base() }.made_of("x"),
            Recipe { sources: &["b"], ..base() }.made_of("x"),
            Recipe { programs: &other, ..base() }.made_of("x"),
        ];
        assert!(variants.iter().all(|variant| *variant != base().made_of("x")));
        assert_eq!(base().made_of("x"), base().made_of("x"));
    }

    #[test]
    fn sources_come_from_the_same_archives() {
        let stanza = "Types: deb\nURIs: http://m.invalid/debian\nSuites: bookworm\n";
        assert_eq!(source_stanzas(stanza), stanza.replace("Types: deb", "Types: deb-src"));
    }

    #[test]
    fn originals_are_neither_signatures_nor_debians() {
        assert!(is_original("zlib_1.2.13.dfsg.orig.tar.bz2") && is_original("gzip_1.12.orig.tar.xz"));
        assert!(!is_original("gzip_1.12.orig.tar.xz.asc") && !is_original("gzip_1.12-1.debian.tar.xz"));
    }
}
