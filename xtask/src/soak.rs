//! `cargo xtask soak`: the long runs, before a release or after a change in the CPU.
//!
//! Its parts share the time: the differential suites of instructions and blocks against this processor, seed after
//! seed; random machines, interpreted and translated; random accesses to devices, and damaged images; cuts of the power
//! while images are written; guests that write garbage to them, or whose drivers mean harm;
//! guests that boot, run a command and end; small work in guests whose results must be the host's; tests with guests that
//! take long; the tests with Debian in a guest, under torture; and [`workouts`], real programs that must come to the same
//! in a guest as on the host. The first discrepancy ends it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use crate::workouts::Workouts;
use crate::{bench, fuzz, step};

/// What `cargo xtask soak` takes.
#[derive(Debug, Args)]
pub struct SoakArgs {
    /// How long it runs, in minutes, not counting what is built before; each part runs once at the least, which takes most
    /// of an hour for the workouts and half of one for the tests under torture
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
    /// Parts to run; all if it is not given
    #[arg(long, value_enum, value_name = "PART,…", value_delimiter = ',')]
    only: Vec<Part>,
    /// Workouts to run, by name; all if it is not given. Without `--only`, only that part
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    rows: Vec<String>,
    /// Option for the engine of all guests, handed to `viv run`
    #[arg(long = "engine-opt", value_name = "KEY=VALUE")]
    engine_options: Vec<String>,
}

impl SoakArgs {
    fn parts(&self) -> Vec<Part> {
        let all = if self.rows.is_empty() { Part::value_variants() } else { &[Part::Workouts] };
        let wanted = if self.only.is_empty() { all } else { &self.only };
        // Each once, in their own order.
        Part::value_variants().iter().copied().filter(|part| wanted.contains(part)).collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Instructions and blocks against this processor
    Differential,
    /// Random machines, interpreted and translated
    Machines,
    /// Random accesses to each device, and damaged images
    Devices,
    /// Cuts of the power while images are written
    Power,
    /// Guests that write garbage to every port and every page of device memory, and drivers that mean harm
    Garbage,
    /// Guests that boot, run a command and end
    Boots,
    /// Small work whose results must be the host's
    Work,
    /// The tests with guests that take too long for every day
    Long,
    /// The tests with Debian in a guest, under torture
    Torture,
    /// Real programs that must come to the same in a guest as on the host
    Workouts,
}

/// Cases of each instruction form for one seed of the differential suite.
const CASES: u64 = 100;
/// Blocks of each mode beside them.
const BLOCKS: u64 = 20_000;

/// Loads of an image of each format in a round, cuts of the power in each, and processes that are killed beside them.
const LOADS: u64 = 50;
const CUTS: u64 = 60;
const KILLS: u64 = 100;

/// Guests of each kind that write garbage, in a round.
const GARBAGE: u64 = 20;
/// How often each device of two guests is sent what no driver sends, in a round.
const TORMENTS: u64 = 1500;
/// Tests whose guests do much before they come to what is tested, and those of other things than what runs instructions.
const NOT_FOR_TORTURE: [&str; 12] = [
    "disks::",
    "idle::",
    "images::",
    "installed::",
    "installer::",
    "keep::",
    "memtest::",
    "network::",
    "resources::",
    "saved::",
    "virtio::",
    "xen::",
];

/// What a guest and the host both compute, with a seed in `$1`: data that compresses, sums of it, numbers, order.
const WORK: &str = r#"
set -e
perl -e 'my $x = shift; for (1 .. 200000) { $x = ($x * 1103515245 + 12345) & 0x7fffffff; print $x % 1000, "\n" }' "$1" > /tmp/soak.$$
sha256sum < /tmp/soak.$$
gzip -9 < /tmp/soak.$$ | gunzip | md5sum
sort -n /tmp/soak.$$ | uniq -c | sha512sum
perl -e 'my ($n, $s) = (shift) x 2; for (1 .. 100000) { $s += sqrt($_ + $n) * atan2($_, $n + 1) } printf "%.9g\n", $s' "$1"
rm /tmp/soak.$$
"#;

/// Runs the parts that are wanted; fails at the first discrepancy.
pub fn run(root: &Path, args: &SoakArgs) -> Result<()> {
    let viv = bench::build(root)?;
    let parts = args.parts();
    let mut workouts = match parts.contains(&Part::Workouts) {
        true => Some(Workouts::prepare(root, &viv, &args.rows, &args.engine_options)?),
        false => None,
    };
    let share = Duration::from_secs(args.minutes * 60) / u32::try_from(parts.len())?;
    let mut sum = Vec::new();
    for part in parts {
        sum.push(match part {
            Part::Differential => {
                let seeds = rounds(share, |seed| differential(root, seed))?;
                format!(
                    "differential suites: {seeds} seeds of {CASES} cases for each form and {BLOCKS} blocks, no difference"
                )
            }
            Part::Machines => {
                fuzz::lockstep(root, share.as_secs(), fuzz::any_seed())?;
                format!("random machines: {} s, no difference", share.as_secs())
            }
            Part::Devices => {
                let targets = fuzz::every_target(root, share.as_secs(), fuzz::any_seed())?;
                format!("random accesses to devices, damaged images: {targets} targets in {} s, nothing found", share.as_secs())
            }
            Part::Power => {
                let first = fuzz::any_seed();
                let rounds = rounds(share, |round| power_cuts(root, first + round * LOADS))?;
                format!(
                    "power cuts: {} in {} loads, and {} processes killed, nothing lost",
                    2 * rounds * LOADS * CUTS,
                    2 * rounds * LOADS,
                    rounds * KILLS
                )
            }
            Part::Garbage => {
                let first = fuzz::any_seed();
                let rounds = rounds(share, |round| garbage(root, first + round * GARBAGE))?;
                format!("guests that write garbage: {} of each kind, all ended in order; drivers that mean harm: {rounds} rounds, all devices work", rounds * GARBAGE)
            }
            Part::Boots => {
                let boots = rounds(share, |round| boot(&viv, &args.engine_options, round))?;
                format!("boots: {boots}, each with the status that its command chose")
            }
            Part::Work => {
                let works = rounds(share, |seed| work(&viv, &args.engine_options, seed))?;
                format!("work: {works} rounds, each with the host's results")
            }
            Part::Long => {
                let runs = rounds(share, |_| long_tests(root, &args.engine_options))?;
                format!("long tests with guests: {runs} runs, all passed")
            }
            Part::Torture => {
                let seeds = rounds(share, |seed| guest_tests(root, &args.engine_options, seed))?;
                format!("tests with Debian under torture: {seeds} seeds, all passed")
            }
            Part::Workouts => {
                let Some(workouts) = &mut workouts else { continue };
                let runs = workouts.run(share)?;
                format!("workouts: {runs} runs, each with the host's results")
            }
        });
    }
    println!("{}", sum.join("\n"));
    Ok(())
}

/// Runs `round` again and again, numbered, for as long as `time` says and once at least; how often.
fn rounds(time: Duration, mut round: impl FnMut(u64) -> Result<()>) -> Result<u64> {
    let begun = Instant::now();
    let mut number = 0;
    while number == 0 || begun.elapsed() < time {
        number += 1;
        round(number)?;
    }
    Ok(number)
}

fn differential(root: &Path, seed: u64) -> Result<()> {
    let suite = |name: &str, variables: [(&str, u64); 2]| {
        let mut suite = Command::new("cargo");
        suite
            .args(["test", "--quiet", "--locked", "--package", "viv-soft", "--lib", name])
            .current_dir(root)
            .envs(variables.map(|(name, value)| (name, value.to_string())));
        let [(variable, value), _] = variables;
        ensure!(step::run(&mut suite)?, "{name} differs with {variable}={value}");
        Ok(())
    };
    suite("testing::differential", [("VIV_DIFF_SEED", seed), ("VIV_DIFF_CASES", CASES)])?;
    suite("testing::blocks", [("VIV_DIFF_SEED", seed * BLOCKS), ("VIV_DIFF_BLOCKS", BLOCKS)])
}

/// Images that are written while the power fails, or the process is killed.
fn power_cuts(root: &Path, seed: u64) -> Result<()> {
    for test in ["qcow2::tests::power::", "qcow2::tests::killed::a_killed", "vmdk::tests::power::"] {
        let mut tests = Command::new("cargo");
        tests
            .args(["test", "--quiet", "--locked", "--package", "viv-disk", "--lib", test])
            .current_dir(root)
            .env("VIV_QCOW2_SEED", seed.to_string())
            .env("VIV_QCOW2_LOADS", LOADS.to_string())
            .env("VIV_QCOW2_CUTS", CUTS.to_string())
            .env("VIV_QCOW2_KILLS", KILLS.to_string())
            .env("VIV_VMDK_SEED", seed.to_string())
            .env("VIV_VMDK_LOADS", LOADS.to_string())
            .env("VIV_VMDK_CUTS", CUTS.to_string());
        ensure!(
            step::run(&mut tests)?,
            "an image is damaged or lost writes with VIV_QCOW2_SEED={seed} VIV_VMDK_SEED={seed}"
        );
    }
    Ok(())
}

fn garbage(root: &Path, seed: u64) -> Result<()> {
    let mut tests = Command::new("cargo");
    tests
        .args(["test", "--quiet", "--locked", "--package", "viv", "--test", "cli", "garbage::"])
        .current_dir(root)
        .env("VIV_GARBAGE_SEED", seed.to_string())
        .env("VIV_GARBAGE_ROUNDS", GARBAGE.to_string());
    ensure!(step::run(&mut tests)?, "a guest did not end in order with VIV_GARBAGE_SEED={seed}");
    let mut drivers = Command::new("cargo");
    drivers
        .args(["test", "--quiet", "--locked", "--package", "viv", "--test", "guest", "virtio::"])
        .current_dir(root)
        .env("VIV_VIRTIO_SEED", seed.to_string())
        .env("VIV_VIRTIO_ROUNDS", TORMENTS.to_string());
    ensure!(step::run(&mut drivers)?, "a device does not work again with VIV_VIRTIO_SEED={seed}");
    Ok(())
}

fn boot(viv: &Path, engine_options: &[String], round: u64) -> Result<()> {
    let wanted = (round % 100) as i32;
    let status = debian(viv, engine_options)
        .args(["sh", "-c", &format!("exit {wanted}")])
        .stdin(Stdio::null())
        .status()
        .context("starting viv")?;
    ensure!(status.code() == Some(wanted), "boot {round} ended with {status}, not with status {wanted}");
    Ok(())
}

fn work(viv: &Path, engine_options: &[String], seed: u64) -> Result<()> {
    let seed = seed.to_string();
    let script = ["sh", "-c", WORK, "work", &seed];
    let here = output(Command::new("env").args(script))?;
    let there = output(debian(viv, engine_options).args(script))?;
    ensure!(here == there, "work with seed {seed}: the host has\n{here}and the guest\n{there}");
    Ok(())
}

/// The tests with Debian in a guest, under torture.
fn guest_tests(root: &Path, engine_options: &[String], seed: u64) -> Result<()> {
    let skipped = NOT_FOR_TORTURE.iter().flat_map(|name| ["--skip", name]).collect::<Vec<_>>();
    tests_with_guests(root, &tortured(engine_options, seed), &skipped)
}

/// Those tests with guests of which most is left out everywhere else.
fn long_tests(root: &Path, engine_options: &[String]) -> Result<()> {
    tests_with_guests(root, engine_options, &["memory_passes_every_test"])
}

/// Tests with guests, two at a time: each guest takes a processor.
fn tests_with_guests(root: &Path, engine_options: &[String], arguments: &[&str]) -> Result<()> {
    let options = engine_options.join(" ");
    let mut suite = Command::new("cargo");
    suite
        .args(["test", "--locked", "--package", "viv", "--test", "guest", "--", "--test-threads", "2"])
        .args(arguments)
        .current_dir(root)
        .env("VIV_TEST_ENGINE_OPTIONS", &options)
        .env("VIV_TEST_LONG", "1");
    ensure!(
        step::run(&mut suite)?,
        "tests with guests fail: {arguments:?} with VIV_TEST_ENGINE_OPTIONS='{options}'"
    );
    Ok(())
}

/// The engine's options with torture among them: that which was asked for, or else by `seed`.
fn tortured(engine_options: &[String], seed: u64) -> Vec<String> {
    let mut options = engine_options.to_vec();
    if !options.iter().any(|option| option.starts_with("torture=")) {
        options.push(format!("torture={seed}"));
    }
    options
}

/// A guest, but for the command in it.
fn debian(viv: &Path, engine_options: &[String]) -> Command {
    let mut command = Command::new(viv);
    command.arg("run");
    for option in engine_options {
        command.args(["--engine-opt", option]);
    }
    command.args(["debian", "--"]);
    command
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "{} ended with {}", command.get_program().display(), output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        soak: SoakArgs,
    }

    fn parts(words: &[&str]) -> Vec<Part> {
        Cli::try_parse_from([&["soak"], words].concat()).unwrap().soak.parts()
    }

    #[test]
    fn all_parts_run_unless_some_are_named() {
        assert_eq!(parts(&[]).len(), Part::value_variants().len());
        assert_eq!(parts(&["--only", "workouts,boots,boots"]), [Part::Boots, Part::Workouts]);
    }

    #[test]
    fn torture_has_the_seed_that_was_asked_for_or_another_each_time() {
        let options = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(tortured(&[], 3), ["torture=3"]);
        assert_eq!(tortured(&options(&["code-memory=256"]), 3), ["code-memory=256", "torture=3"]);
        assert_eq!(tortured(&options(&["torture=7"]), 3), ["torture=7"]);
    }

    #[test]
    fn rows_are_the_workouts() {
        assert_eq!(parts(&["--rows", "node,math"]), [Part::Workouts]);
        assert_eq!(parts(&["--rows", "node", "--only", "work"]), [Part::Work]);
    }
}
