//! `cargo xtask bench`: the figures of the software CPU, with QEMU's TCG beside it in the same run.
//!
//! - [`boot`]: from a process's start to the guest's first user-space instruction and to its end, memory, and
//!   instructions a second. [`guest`]: pieces of work inside a guest, also against the host itself.
//! - [`contender`]: how each of the two is started with the same kernel, initial RAM disk, memory and number of
//!   processors. [`session`]: one run of it, on one processor, watched by its serial port.
//! - [`init`], [`workloads`]: what runs in the guests. [`archive`]: the initial RAM disks around it.
//! - [`host`], [`memory`], [`sample`], [`report`]: what the machine is, who has how much memory, medians, tables.
//!
//! Runs alternate between the contenders, so that a machine that is slower for a while is so for both. Figures of
//! one machine mean little; what is to be quoted is the ratio.

mod archive;
mod boot;
mod contender;
mod guest;
mod host;
mod init;
mod memory;
mod report;
mod sample;
mod session;
mod workloads;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::{packages, step};

/// What `cargo xtask bench` takes.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Which figures; all if it is not given
    #[arg(value_enum)]
    part: Option<Part>,
    /// How often each contender runs
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Form of the figures
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Kernel for the guests; without it, that of the image `debian`, which is built if need be
    #[arg(long)]
    kernel: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// From start to user space, memory, instructions a second
    Boot,
    /// Pieces of work inside a guest
    Guest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Table,
    /// For programs
    Json,
}

/// What all parts need.
#[derive(Debug)]
struct Bench {
    viv: PathBuf,
    kernel: PathBuf,
    runs: u32,
    /// The processor that everything runs on.
    processor: u32,
    /// Where guests are put together.
    directory: PathBuf,
}

/// Takes the figures and prints them.
pub fn run(root: &Path, args: &BenchArgs) -> Result<()> {
    packages::ensure(&["qemu-system-x86", "util-linux"])?;
    let viv = build(root)?;
    let kernel = match &args.kernel {
        Some(kernel) => kernel.clone(),
        None => image(&viv)?.join("kernel"),
    };
    let directory = root.join("target/bench");
    std::fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
    let bench = Bench { viv, kernel, runs: args.runs, processor: host::last_processor()?, directory };
    let host = host::Host::read(bench.processor)?;
    let wants = |part| args.part.is_none_or(|only| only == part);
    let boot = wants(Part::Boot).then(|| boot::measure(&bench)).transpose()?;
    let guest = wants(Part::Guest).then(|| guest::measure(root, &bench)).transpose()?;
    match args.output {
        Output::Table => {
            println!("\n{host}");
            boot.iter().for_each(|boot| println!("\n{boot}"));
            guest.iter().for_each(|guest| println!("\n{guest}"));
        }
        Output::Json => {
            let figures = json!({
                "host": host.to_json(),
                "runs": args.runs,
                "boot": boot.map(|boot| boot.to_json()),
                "guest": guest.map(|guest| guest.to_json()),
            });
            println!("{figures:#}");
        }
    }
    Ok(())
}

/// Builds `viv` as its users have it.
pub fn build(root: &Path) -> Result<PathBuf> {
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--release", "--locked", "--package", "viv"]).current_dir(root);
    ensure!(step::run(&mut cargo)?, "viv cannot be built; the messages are above");
    Ok(root.join("target/release/viv"))
}

/// The directory of the image `debian`, which is built if need be.
fn image(viv: &Path) -> Result<PathBuf> {
    ensure!(
        step::run(Command::new(viv).args(["image", "build", "debian"]).stdout(Stdio::null()))?,
        "the image debian cannot be built; give --kernel FILE to do without it"
    );
    Ok(store(viv)?.join("images/debian-bookworm"))
}

/// The directory of all images.
pub fn store(viv: &Path) -> Result<PathBuf> {
    let output =
        Command::new(viv).args(["image", "ls", "--output", "json"]).output().context("listing images")?;
    let listing: Value = serde_json::from_slice(&output.stdout).context("reading the list of images")?;
    match listing["store"].as_str() {
        Some(store) => Ok(store.into()),
        None => bail!("viv image ls does not say where images are: {listing}"),
    }
}
