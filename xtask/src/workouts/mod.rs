//! Real programs as judges of the software CPU: each runs on the host and in a guest, from the same root file system,
//! and must come to the same.
//!
//! - [`programs`]: what there is to run. What of it a program says on standard output is its result, which is compared;
//!   the rest, on standard error, is shown if it is not the host's.
//! - [`place`]: running one on the host, in a guest.
//!
//! They test what random instructions do not: loops that get hot, code that is written while it runs, signals in the
//! middle of anything, a kernel with its page tables below.

mod place;
mod programs;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use viv_image::{ImageName, Store, files};

use self::place::{Guest, Outcome, Place};
use self::programs::{PROGRAMS, Program};
use crate::packages;
use viv_testbed::rootfs::{self, Recipe, Told};

/// Packages that the programs are from or need.
const PACKAGES: &[&str] = &[
    "bash",
    "bc",
    "coreutils",
    "ed",
    "gcc",
    "gcc-multilib",
    "gdb",
    "libc6-dev",
    "libpython3.11-testsuite",
    "luajit",
    "make",
    "nodejs",
    "openjdk-17-jdk-headless",
    "openssl",
    "python3",
    "stress-ng",
    "util-linux",
    "valgrind",
];

/// Packages that are built from their sources.
const SOURCES: &[&str] = &["bc", "zlib"];

/// Lines of a program's errors that are shown, the last ones.
const SHOWN: usize = 40;

/// The programs to run, and in what.
#[derive(Debug)]
pub struct Workouts {
    viv: PathBuf,
    /// Where results and the root file system are.
    directory: PathBuf,
    disk: PathBuf,
    /// The store with the image of that root file system.
    store: PathBuf,
    programs: Vec<&'static Program>,
    engine_options: Vec<String>,
    /// What came of the programs on the host, by name.
    expected: HashMap<&'static str, Outcome>,
}

impl Workouts {
    /// Prepares the programs of these names, all if there is none; builds the root file system if need be.
    pub fn prepare(root: &Path, viv: &Path, names: &[String], engine_options: &[String]) -> Result<Self> {
        let programs = select(names)?;
        ensure!(
            packages::is_root(),
            "the workouts need root, who alone can mount and change the root directory"
        );
        packages::ensure(&["mount", "util-linux"])?;
        let directory = root.join("target/workouts");
        std::fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
        let name: ImageName = "debian".parse()?;
        let recipe = Recipe { packages: PACKAGES, sources: SOURCES, ..Recipe::default() };
        let disk = rootfs::provide(&recipe, &directory, name)?;
        let base = Store::open()?.ensure(name, &Told)?;
        let store = directory.join("store");
        files::remove_tree(&store)?;
        Store::open_at(&store)?.variant(&base, &disk, &Told)?;
        let engine_options = engine_options.to_vec();
        Ok(Self {
            viv: viv.to_owned(),
            directory,
            disk,
            store,
            programs,
            engine_options,
            expected: HashMap::new(),
        })
    }

    /// Runs them all, and then the short ones again, tortured, with another seed each time, for as long as `time` says.
    /// If the engine's options are given, all runs have those and no others. How many runs there were.
    pub fn run(&mut self, time: Duration) -> Result<u64> {
        let begun = Instant::now();
        let mut runs = 0;
        for round in 1.. {
            for program in self.programs.clone() {
                if round > 1 && begun.elapsed() >= time {
                    return Ok(runs);
                }
                if round == 1 || program.is_short {
                    self.judge(program, &self.options(round))?;
                    runs += 1;
                }
            }
            if begun.elapsed() >= time || !self.programs.iter().any(|program| program.is_short) {
                break;
            }
        }
        Ok(runs)
    }

    fn options(&self, round: u64) -> Vec<String> {
        if round > 1 && self.engine_options.is_empty() {
            vec![format!("torture={round}")]
        } else {
            self.engine_options.clone()
        }
    }

    /// Runs one in a guest, the first time also on the host; fails if they differ.
    fn judge(&mut self, program: &'static Program, options: &[String]) -> Result<()> {
        let run = |place: Place<'_>| place.run(program, &self.directory);
        if !self.expected.contains_key(program.name) {
            let outcome = run(Place::Host(&self.disk))?;
            eprintln!("{}, host: {:.1} s", program.name, outcome.took.as_secs_f64());
            ensure!(
                outcome.status == Some(0),
                "{} fails on this host, with status {:?}:\n{}",
                program.name,
                outcome.status,
                tail(&outcome.errors)
            );
            self.expected.insert(program.name, outcome);
        }
        let guest = Guest { viv: &self.viv, store: &self.store, engine_options: options };
        let outcome = run(Place::Guest(guest))?;
        let how = if options.is_empty() { "as usual".to_owned() } else { options.join(" ") };
        eprintln!("{}, guest, {how}: {:.1} s", program.name, outcome.took.as_secs_f64());
        let Some(difference) = difference(&self.expected[program.name], &outcome) else { return Ok(()) };
        bail!(
            "{} in a guest, {how}: {difference}\nits errors end with:\n{}\nall of it is in {}",
            program.name,
            tail(&outcome.errors),
            self.directory.display()
        );
    }
}

/// The programs of these names; all if there is none.
fn select(names: &[String]) -> Result<Vec<&'static Program>> {
    let known = || PROGRAMS.iter().map(|program| program.name).collect::<Vec<_>>().join(", ");
    if let Some(name) = names.iter().find(|name| !PROGRAMS.iter().any(|program| program.name == **name)) {
        bail!("there is no workout {name}; there are {}", known());
    }
    Ok(PROGRAMS
        .iter()
        .filter(|program| names.is_empty() || names.iter().any(|name| name == program.name))
        .collect())
}

/// What is not as expected, if anything is.
fn difference(expected: &Outcome, found: &Outcome) -> Option<String> {
    let missing = || "nothing".to_owned();
    let (mut wanted, mut had) = (expected.result.lines(), found.result.lines());
    let mut number = 0;
    loop {
        number += 1;
        match (wanted.next(), had.next()) {
            (None, None) => break,
            (wanted, had) if wanted == had => {}
            (wanted, had) => {
                let [wanted, had] =
                    [wanted, had].map(|line| line.map_or_else(missing, |line| format!("{line:?}")));
                return Some(format!("line {number} of its result is {had}, on the host {wanted}"));
            }
        }
    }
    (found.status != expected.status).then(|| match found.status {
        Some(status) => format!("it ended with status {status}"),
        None => "it did not end".to_owned(),
    })
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(status: Option<i32>, result: &str) -> Outcome {
        Outcome { status, result: result.into(), errors: String::new(), took: Duration::ZERO }
    }

    #[test]
    fn a_result_differs_at_its_first_other_line() {
        let expected = outcome(Some(0), "a\nb\n");
        assert_eq!(difference(&expected, &outcome(Some(0), "a\nb\n")), None);
        let other = difference(&expected, &outcome(Some(0), "a\nc\n")).unwrap();
        assert_eq!(other, "line 2 of its result is \"c\", on the host \"b\"");
        let shorter = difference(&expected, &outcome(Some(1), "a\n")).unwrap();
        assert_eq!(shorter, "line 2 of its result is nothing, on the host \"b\"");
        let longer = difference(&expected, &outcome(Some(0), "a\nb\nc\n")).unwrap();
        assert_eq!(longer, "line 3 of its result is \"c\", on the host nothing");
    }

    #[test]
    fn an_end_is_part_of_the_result() {
        let expected = outcome(Some(0), "a\n");
        assert_eq!(difference(&expected, &outcome(Some(3), "a\n")).unwrap(), "it ended with status 3");
        assert_eq!(difference(&expected, &outcome(None, "a\n")).unwrap(), "it did not end");
    }

    #[test]
    fn programs_are_chosen_by_name() {
        assert_eq!(select(&[]).unwrap().len(), PROGRAMS.len());
        let names: Vec<_> =
            select(&["math".into(), "node".into()]).unwrap().iter().map(|one| one.name).collect();
        assert_eq!(names, ["math", "node"]);
        assert!(select(&["nosuch".into()]).unwrap_err().to_string().contains("there are stress-cpu"));
    }

    #[test]
    fn errors_are_shown_from_their_end() {
        let text: String = (0..SHOWN + 5).map(|number| format!("{number}\n")).collect();
        let shown = tail(&text);
        assert!(shown.starts_with("5\n") && shown.ends_with("44") && tail("one") == "one");
    }
}
