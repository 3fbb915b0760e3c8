//! `cargo xtask soak`: the long runs, before a release or after a change in the CPU.
//!
//! Four parts share the time: the differential suites of instructions and blocks against this processor, seed after
//! seed; random machines, interpreted and translated; guests that boot, run a command and end; and work in guests whose
//! results must be the host's. The first discrepancy ends it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::{bench, fuzz, step};

/// What `cargo xtask soak` takes.
#[derive(Debug, Args)]
pub struct SoakArgs {
    /// How long it runs, in minutes, not counting what is built before
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
}

/// Cases of each instruction form for one seed of the differential suite.
const CASES: u64 = 100;
/// Blocks of each mode beside them.
const BLOCKS: u64 = 20_000;

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

/// Runs all parts; fails at the first discrepancy.
pub fn run(root: &Path, args: &SoakArgs) -> Result<()> {
    let viv = bench::build(root)?;
    let share = Duration::from_secs(args.minutes * 60) / 4;
    let seeds = rounds(share, |seed| differential(root, seed))?;
    fuzz::lockstep(root, share.as_secs(), fuzz::any_seed())?;
    let boots = rounds(share, |round| boot(&viv, round))?;
    let works = rounds(share, |seed| work(&viv, seed))?;
    println!(
        "differential suites: {seeds} seeds of {CASES} cases for each form and {BLOCKS} blocks, no difference"
    );
    println!("random machines: {} s, no difference", share.as_secs());
    println!("boots: {boots}, each with the status that its command chose");
    println!("work: {works} rounds, each with the host's results");
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

fn boot(viv: &Path, round: u64) -> Result<()> {
    let wanted = (round % 100) as i32;
    let status = Command::new(viv)
        .args(["run", "debian", "--", "sh", "-c", &format!("exit {wanted}")])
        .stdin(Stdio::null())
        .status()
        .context("starting viv")?;
    ensure!(status.code() == Some(wanted), "boot {round} ended with {status}, not with status {wanted}");
    Ok(())
}

fn work(viv: &Path, seed: u64) -> Result<()> {
    let seed = seed.to_string();
    let script = ["sh", "-c", WORK, "work", &seed];
    let here = output(Command::new("env").args(script))?;
    let there = output(Command::new(viv).args(["run", "debian", "--"]).args(script))?;
    ensure!(here == there, "work with seed {seed}: the host has\n{here}and the guest\n{there}");
    Ok(())
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "{} ended with {}", command.get_program().display(), output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
