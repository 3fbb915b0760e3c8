//! `cargo xtask fuzz`: random guests, accesses to devices, images and frames, for as long as one likes.
//!
//! The targets are tests of the crates concerned: one compares interpreter and translator, and each device, image format and
//! part of the user-mode network has one, found by the name of its module. Environment variables say from which seed and for how long.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::step;

/// Random machines, interpreted and translated.
const LOCKSTEP: &str = "lockstep";
/// The module with a test for each device or format.
const TARGETS: &str = "testing::fuzz::target::";
/// Where devices are, image formats, the user-mode network, the server of shared directories, and formats of kernels.
const PACKAGES: [&str; 5] = ["viv-devices", "viv-disk", "viv-usernet", "viv-share", "viv-boot"];

/// What `cargo xtask fuzz` takes.
#[derive(Debug, Args)]
pub struct FuzzArgs {
    /// What is made up at random: `lockstep`, machines full of random code, interpreted and translated, which must come
    /// to the same end; a device's accesses; the damage of an image or a kernel; or what a guest sends to its network or about a directory [default: all, one after the other]
    target: Option<String>,
    /// Show the targets there are
    #[arg(long, conflicts_with = "target")]
    list: bool,
    /// How long each target runs, in seconds, not counting what is built before
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// The first seed; the others follow it [default: another one each time]
    #[arg(long)]
    seed: Option<u64>,
}

/// Runs what is asked for; fails at the first discrepancy.
pub fn run(root: &Path, args: &FuzzArgs) -> Result<()> {
    let mut targets = vec![(None, LOCKSTEP.to_owned())];
    if args.target.as_deref() != Some(LOCKSTEP) {
        targets.extend(all(root)?.into_iter().map(|(package, name)| (Some(package), name)));
    }
    if args.list {
        targets.iter().for_each(|(_, name)| println!("{name}"));
        return Ok(());
    }
    if let Some(target) = &args.target {
        targets.retain(|(_, name)| name == target);
        ensure!(!targets.is_empty(), "there is no target {target}: `cargo xtask fuzz --list` shows them");
    }
    let seed = args.seed.unwrap_or_else(any_seed);
    for (package, name) in targets {
        match package {
            None => lockstep(root, args.seconds, seed)?,
            Some(package) => one(root, package, &name, args.seconds, seed)?,
        }
    }
    Ok(())
}

/// The tests of a package, in a program that is built if need be.
fn tests(root: &Path, package: &str, filter: &str) -> Command {
    let mut tests = Command::new("cargo");
    tests.args(["test", "--quiet", "--locked", "--package", package, "--lib", filter]).current_dir(root);
    tests
}

/// The targets of devices and formats, each with its package.
fn all(root: &Path) -> Result<Vec<(&'static str, String)>> {
    let mut found = Vec::new();
    for package in PACKAGES {
        let mut list = tests(root, package, TARGETS);
        list.args(["--", "--list", "--format", "terse"]).stderr(Stdio::inherit());
        let output = list.output().context("starting cargo")?;
        ensure!(output.status.success(), "the tests of {package} do not build");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let name = |line: &str| Some(line.strip_prefix(TARGETS)?.strip_suffix(": test")?.to_owned());
        found.extend(text.lines().filter_map(name).map(|name| (package, name)));
    }
    Ok(found)
}

fn one(root: &Path, package: &str, name: &str, seconds: u64, seed: u64) -> Result<()> {
    let mut suite = tests(root, package, &format!("{TARGETS}{name}"));
    suite
        .args(["--", "--exact", "--nocapture"])
        .env(viv_fuzz::SEED, seed.to_string())
        .env(viv_fuzz::SECONDS, seconds.to_string());
    ensure!(
        step::run(&mut suite)?,
        "{name} fails; it began with --seed {seed}, and the seed that failed is above"
    );
    Ok(())
}

/// Runs the target of each device and format from seed `seed` on, all in so many seconds.
pub fn every_target(root: &Path, seconds: u64, seed: u64) -> Result<usize> {
    let targets = all(root)?;
    let share = (seconds / targets.len().max(1) as u64).max(1);
    targets.iter().try_for_each(|(package, name)| one(root, package, name, share, seed))?;
    Ok(targets.len())
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
