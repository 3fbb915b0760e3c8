//! Running a command and telling how it went.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How a step went.
#[derive(Debug)]
pub struct Step {
    /// What it is called in the sum.
    pub name: &'static str,
    /// Whether it succeeded.
    pub ok: bool,
    /// Tests that passed and failed in it; a step without tests is one check.
    pub passed: u64,
    /// See `passed`.
    pub failed: u64,
    /// How long it took.
    pub took: Duration,
}

/// Runs a command as a step that is one check.
pub fn check(name: &'static str, command: &mut Command) -> Result<Step> {
    let begun = Instant::now();
    let ok = run(command)?;
    Ok(Step { name, ok, passed: ok.into(), failed: (!ok).into(), took: begun.elapsed() })
}

/// Runs a command that runs tests as `cargo test` does, and counts them.
pub fn tests(name: &'static str, command: &mut Command) -> Result<Step> {
    let begun = Instant::now();
    show(command);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {}", command.get_program().display()))?;
    let mut tally = Tally::default();
    if let Some(out) = child.stdout.take() {
        for line in BufReader::new(out).split(b'\n') {
            let line = line.context("reading the tests' output")?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            tally.take(&line);
        }
    }
    let ok = child.wait().context("waiting for the tests")?.success();
    // A test program that crashes or does not compile reports no failed test.
    let failed = if ok { tally.failed } else { tally.failed.max(1) };
    Ok(Step { name, ok, passed: tally.passed, failed, took: begun.elapsed() })
}

/// Runs a command, shown first on standard error; whether it succeeded.
pub fn run(command: &mut Command) -> Result<bool> {
    show(command);
    let status = command.status().with_context(|| format!("starting {}", command.get_program().display()))?;
    Ok(status.success())
}

fn show(command: &Command) {
    let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
    eprintln!("\n$ {} {}", command.get_program().display(), words.join(" "));
}

/// Tests counted from the lines with which test programs end.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
}

impl Tally {
    /// Counts a line like `test result: ok. 12 passed; 0 failed; 1 ignored; …`.
    fn take(&mut self, line: &str) {
        let Some(counts) = line.strip_prefix("test result: ") else { return };
        let counts = counts.split_once(". ").map_or(counts, |(_, counts)| counts);
        for count in counts.split(';') {
            match count.trim().split_once(' ') {
                Some((number, "passed")) => self.passed += number.parse().unwrap_or(0),
                Some((number, "failed")) => self.failed += number.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_added_up() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "said by a test: 7 passed; 9 failed",
        ] {
            tally.take(line);
        }
        assert_eq!(tally, Tally { passed: 14, failed: 1 });
    }

    #[test]
    fn a_crash_without_a_result_is_a_failure() {
        let step = tests("crash", Command::new("sh").args(["-c", "echo running; exit 101"])).unwrap();
        assert_eq!((step.ok, step.passed, step.failed), (false, 0, 1));
    }
}
