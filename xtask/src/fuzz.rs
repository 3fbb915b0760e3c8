//! `cargo xtask fuzz`: random guests, for as long as one likes.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use crate::step;

/// What `cargo xtask fuzz` takes.
#[derive(Debug, Args)]
pub struct FuzzArgs {
    /// What is made up at random.
    #[command(subcommand)]
    target: Target,
}

/// What can be made up at random.
#[derive(Debug, Subcommand)]
enum Target {
    /// Machines full of random code, interpreted and translated, which must come to the same end
    Lockstep(Lockstep),
}

/// What `cargo xtask fuzz lockstep` takes.
#[derive(Debug, Args)]
struct Lockstep {
    /// How long it runs, in seconds, not counting what is built before
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// The first machine's seed; the others' follow it [default: another one each time]
    #[arg(long)]
    seed: Option<u64>,
}

/// Runs what is asked for; fails at the first discrepancy.
pub fn run(root: &Path, args: &FuzzArgs) -> Result<()> {
    let Target::Lockstep(Lockstep { seconds, seed }) = &args.target;
    lockstep(root, *seconds, seed.unwrap_or_else(any_seed))
}

/// A seed that nobody has chosen, small enough to be copied by hand.
pub fn any_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_micros() as u64 % 1_000_000_000
}

/// Runs random machines from seed `seed` on.
pub fn lockstep(root: &Path, seconds: u64, seed: u64) -> Result<()> {
    let note = root.join("target/lockstep-seed");
    let mut suite = Command::new("cargo");
    suite
        .args(["test", "--quiet", "--locked", "--package", "viv-soft", "--lib", "testing::lockstep"])
        .args(["--", "--nocapture"])
        .current_dir(root)
        .env("VIV_LOCKSTEP_SEED", seed.to_string())
        .env("VIV_LOCKSTEP_SECONDS", seconds.to_string())
        .env("VIV_LOCKSTEP_NOTE", &note);
    let ok = step::run(&mut suite)?;
    let last = fs::read_to_string(&note).unwrap_or_default();
    let _ = fs::remove_file(&note);
    if !ok {
        bail!("machines differ, by the seeds above; the last one that ran is --seed {last}");
    }
    Ok(())
}
