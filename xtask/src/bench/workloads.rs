//! The programs in `guest` that time pieces of work: built, and followed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::session::Session;
use crate::step;

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

/// Builds a program for guests and host from this file. It gets the name of the file, or of what that is the main one of.
pub fn compile(source: &Path, directory: &Path) -> Result<PathBuf> {
    let whole = if source.ends_with("main.rs") { source.parent() } else { Some(source) };
    let name = whole.and_then(Path::file_stem).context("the name of a program")?;
    let program = directory.join(name);
    let mut rustc = Command::new("rustc");
    rustc
        .args(["--edition", "2024", "-O", "--target", "x86_64-unknown-linux-gnu"])
        .args(["-C", "target-feature=+crt-static", "-C", "strip=symbols", "-o"])
        .arg(&program)
        .arg(source);
    ensure!(step::run(&mut rustc)?, "a program for guests cannot be built; the messages are above");
    Ok(program)
}

/// The program's list of its rows.
pub fn list(program: &Path) -> Result<String> {
    let output =
        Command::new(program).arg("--list").output().context("asking the workloads for their rows")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Fails if one of these rows is not among those that there are.
pub fn check_rows(rows: &[&str], wanted: &[String]) -> Result<()> {
    match wanted.iter().find(|row| !rows.contains(&row.as_str())) {
        Some(row) => bail!("there is no row {row}; there are {}", rows.join(", ")),
        None => Ok(()),
    }
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
            (["@failed", why @ ..], begun) => {
                let name = begun.map_or("what is before the first row".to_owned(), |(_, name)| name);
                bail!("{name} failed: {}", why.join(" "));
            }
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

    #[test]
    fn a_failure_is_told_with_its_reason() {
        let error = said("@begin a\\n@failed no file there\\n").unwrap_err().to_string();
        assert_eq!(error, "a failed: no file there");
    }

    #[test]
    fn rows_that_do_not_exist_are_refused_with_those_that_do() {
        check_rows(&["a", "b"], &["b".to_owned()]).unwrap();
        let error = check_rows(&["a", "b"], &["b".to_owned(), "c".to_owned()]).unwrap_err().to_string();
        assert_eq!(error, "there is no row c; there are a, b");
    }
}
