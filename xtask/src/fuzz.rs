//! `cargo xtask fuzz`: random guests, random accesses to devices and random frames, for as long as one likes.
//!
//! The targets are tests of the crates concerned: one compares interpreter and translator, and each device has one, found
//! by the name of its module, as each part of the user-mode network has. Environment variables say from which seed and for how long.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::step;

/// Random machines, interpreted and translated.
const LOCKSTEP: &str = "lockstep";
/// The crates whose targets are found by the names of their tests.
const CRATES: [&str; 2] = ["viv-devices", "viv-usernet"];
/// The module with a test for each target.
const DEVICES: &str = "testing::fuzz::target::";

/// What `cargo xtask fuzz` takes.
#[derive(Debug, Args)]
pub struct FuzzArgs {
    /// What is made up at random: `lockstep`, machines full of random code, interpreted and translated, which must come
    /// to the same end; a device's accesses; or what a guest sends to its network [default: all, one after the other]
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
    let asked = args.target.as_deref();
    let seed = args.seed.unwrap_or_else(any_seed);
    if args.list {
        println!("{LOCKSTEP}");
    } else if asked.is_none_or(|target| target == LOCKSTEP) {
        lockstep(root, args.seconds, seed)?;
    }
    if asked == Some(LOCKSTEP) {
        return Ok(());
    }
    let mut targets = devices(root)?;
    if args.list {
        targets.iter().for_each(|target| println!("{}", target.name));
        return Ok(());
    }
    if let Some(asked) = asked {
        targets.retain(|target| target.name == asked);
        ensure!(!targets.is_empty(), "there is no target {asked}: `cargo xtask fuzz --list` shows them");
    }
    targets.iter().try_for_each(|target| one_device(root, target, args.seconds, seed))
}

/// A target that is the test of a crate.
struct Target {
    package: &'static str,
    name: String,
}

/// The tests of a crate, in a program that is built if need be.
fn device_tests(root: &Path, package: &str, filter: &str) -> Command {
    let mut tests = Command::new("cargo");
    tests.args(["test", "--quiet", "--locked", "--package", package, "--lib", filter]).current_dir(root);
    tests
}

/// The devices, and other parts, that have a target.
fn devices(root: &Path) -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    for package in CRATES {
        let mut list = device_tests(root, package, DEVICES);
        list.args(["--", "--list", "--format", "terse"]).stderr(Stdio::inherit());
        let output = list.output().context("starting cargo")?;
        ensure!(output.status.success(), "the tests of {package} do not build");
        let text = String::from_utf8_lossy(&output.stdout);
        let name = |line: &str| Some(line.strip_prefix(DEVICES)?.strip_suffix(": test")?.to_owned());
        targets.extend(text.lines().filter_map(name).map(|name| Target { package, name }));
    }
    Ok(targets)
}

fn one_device(root: &Path, target: &Target, seconds: u64, seed: u64) -> Result<()> {
    let mut suite = device_tests(root, target.package, &format!("{DEVICES}{}", target.name));
    suite
        .args(["--", "--exact", "--nocapture"])
        .env("VIV_FUZZ_SEED", seed.to_string())
        .env("VIV_FUZZ_SECONDS", seconds.to_string());
    ensure!(
        step::run(&mut suite)?,
        "{} fails; it began with --seed {seed}, and the seed that failed is above",
        target.name
    );
    Ok(())
}

/// Runs each device's target from seed `seed` on, all in so many seconds.
pub fn every_device(root: &Path, seconds: u64, seed: u64) -> Result<usize> {
    let devices = devices(root)?;
    let share = (seconds / devices.len().max(1) as u64).max(1);
    devices.iter().try_for_each(|device| one_device(root, device, share, seed))?;
    Ok(devices.len())
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
