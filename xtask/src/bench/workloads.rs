//! The program `guest/workloads.rs`: built, packed as a guest's only one, and followed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::archive::Archive;
use super::session::Session;
use crate::step;

/// The system's programs that it runs, if they are there.
const PROGRAMS: &[&str] = &[
    "/usr/bin/bash",
    "/usr/bin/gzip",
    "/usr/bin/perl",
    "/usr/bin/sha256sum",
    "/usr/bin/sort",
    "/usr/bin/true",
    "/usr/bin/xz",
];

/// One workload of one run.
#[derive(Debug, Clone, PartialEq)]
pub struct Timed {
    pub name: String,
    /// Seconds by the clock of the system that it ran on.
    pub inside: f64,
    /// Seconds by this host's clock, between the two lines.
    pub outside: f64,
    /// What the work came to.
    pub result: String,
}

/// Builds the program.
pub fn build(root: &Path, directory: &Path) -> Result<PathBuf> {
    let program = directory.join("workloads");
    let mut rustc = Command::new("rustc");
    rustc
        .args(["--edition", "2024", "-O", "--target", "x86_64-unknown-linux-gnu"])
        .args(["-C", "target-feature=+crt-static", "-C", "strip=symbols", "-o"])
        .arg(&program)
        .arg(root.join("xtask/guest/workloads.rs"));
    ensure!(step::run(&mut rustc)?, "the workloads cannot be built; the messages are above");
    Ok(program)
}

/// An initial RAM disk with the program as first process, and this host's own programs for it to run.
pub fn initrd(program: &Path) -> Result<Vec<u8>> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("reading {}", path.display()));
    let mut archive = Archive::default();
    archive.program("/init".as_ref(), &read(program)?);
    archive.device("null", 1, 3);
    let mut files = BTreeSet::new();
    for program in PROGRAMS.iter().map(Path::new).filter(|program| program.exists()) {
        files.insert(program.to_owned());
        files.extend(libraries(program)?);
    }
    for file in files {
        archive.program(&file, &read(&file)?);
    }
    Ok(archive.finish())
}

/// The shared libraries of a program of this host, its loader included.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("starting ldd")?;
    let output = String::from_utf8_lossy(&output.stdout);
    Ok(output.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

/// Follows a run of the program to its end.
pub fn follow(session: &mut Session) -> Result<Vec<Timed>> {
    let mut done = Vec::new();
    let mut begun: Option<(f64, String)> = None;
    while let Some((at, line)) = session.next_line()? {
        match (line.split(' ').collect::<Vec<_>>().as_slice(), begun.take()) {
            (["@begin", name], None) => begun = Some((at, (*name).to_owned())),
            (["@end", name, seconds, result], Some((before, begun))) if *name == begun => done.push(Timed {
                name: begun,
                inside: seconds.parse().with_context(|| format!("reading the seconds in {line}"))?,
                outside: at - before,
                result: (*result).to_owned(),
            }),
            _ => bail!("the workloads said what makes no sense here: {line}"),
        }
    }
    match begun {
        Some((_, name)) => bail!("{name} did not end"),
        None => Ok(done),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(lines: &str) -> Result<Vec<Timed>> {
        let script = format!("printf '{lines}'");
        follow(&mut Session::start(Command::new("sh").args(["-c", &script])).unwrap())
    }

    #[test]
    fn a_workload_is_timed_between_its_lines() {
        let timed = said("@begin a\\n@end a 0.25 ff\\nnoise @begin b\\n@end b 1 0\\n").unwrap();
        assert_eq!(timed.len(), 2);
        assert_eq!((timed[0].name.as_str(), timed[0].inside, timed[0].result.as_str()), ("a", 0.25, "ff"));
    }

    #[test]
    fn one_that_does_not_end_is_an_error() {
        assert!(said("@begin a\\n").unwrap_err().to_string().contains("a did not end"));
        assert!(said("@begin a\\n@end b 1 0\\n").is_err());
    }
}
