//! `cargo xtask bench`: the figures of the software CPU, with QEMU's TCG beside it in the same run.
//!
//! - [`boot`]: from a process's start to the guest's first user-space instruction and to its end, memory, and
//!   instructions a second. [`installed`]: a whole Debian on its disk, which [`boot`] times too. [`guest`]: pieces of work
//!   inside a guest, also against the host itself. [`processors`]: work for several processors.
//! - [`devices`]: work for a guest's devices, disks, networks and shared directories, also against the host itself.
//! - [`contender`]: how each of the two is started with the same kernel, initial RAM disk, disk, memory and number of
//!   processors. [`session`]: one run of it, watched by its serial port.
//! - [`init`], [`workloads`]: what runs in the guests. [`rootfs`]: the root file system around the workloads, which is
//!   the host's too for as long as they run there.
//! - [`places`]: the same rows in every place. [`host`], [`memory`], [`sample`], [`figures`], [`report`]: what the machine
//!   is, who has how much memory, medians, ratios, tables.
//!
//! Runs alternate between the contenders, so that a machine that is slower for a while is so for both. Figures of
//! one machine mean little; what is to be quoted is the ratio.

mod boot;
mod contender;
mod devices;
mod figures;
mod guest;
mod host;
mod init;
mod installed;
mod memory;
mod places;
mod processors;
mod report;
mod rootfs;
mod sample;
mod session;
mod workloads;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use serde_json::json;
use viv_image::{ImageHandle, ImageName, Store, initrd};

use crate::{packages, step};
use figures::Workloads;
use viv_testbed::rootfs::Told;

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
    /// Rows of the parts `guest` or `devices`, by name; all if it is not given. Without a part, only `guest`
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    rows: Vec<String>,
    /// Option for viv's engine, handed to `viv run`
    #[arg(long = "engine-opt", value_name = "KEY=VALUE")]
    engine_options: Vec<String>,
    /// The viv to measure; without it, it is built from here
    #[arg(long, value_name = "FILE")]
    viv: Option<PathBuf>,
    /// Kernel for the guests, with its drivers built in; without it, that of the image `debian`, which is built if
    /// need be
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
}

impl BenchArgs {
    fn wants(&self, part: Part) -> bool {
        self.part.map_or(part == Part::Guest || self.rows.is_empty(), |only| only == part)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// From start to user space, memory, instructions a second
    Boot,
    /// Pieces of work inside a guest
    Guest,
    /// Work for several processors
    Processors,
    /// Disks: in order and at random, one request at a time and many. Networks: streams, datagrams, round trips and small
    /// requests each way, also under QEMU with passt. Shared directories, under QEMU with virtiofsd: a large file, many small
    Devices,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Table,
    /// For programs
    Json,
}

/// What all parts need.
#[derive(Debug, Default)]
struct Bench {
    viv: PathBuf,
    engine_options: Vec<String>,
    kernel: PathBuf,
    /// The image that the kernel is from, if it is from one.
    image: Option<ImageHandle>,
    runs: u32,
    /// Rows of the workloads; all if there is none.
    rows: Vec<String>,
    /// The processor that everything runs on.
    processor: u32,
    /// Where guests are put together.
    directory: PathBuf,
}

impl Bench {
    fn new(root: &Path, args: &BenchArgs) -> Result<Self> {
        let viv = match &args.viv {
            Some(viv) => viv.clone(),
            None => build(root)?,
        };
        let image = match &args.kernel {
            Some(_) => None,
            None => Some(Store::open()?.ensure(image_name()?, &Told)?),
        };
        let kernel = args.kernel.clone().or_else(|| image.as_ref().map(ImageHandle::kernel));
        let directory = root.join("target/bench");
        fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
        Ok(Self {
            viv,
            engine_options: args.engine_options.clone(),
            kernel: kernel.unwrap_or_default(),
            image,
            runs: args.runs,
            rows: args.rows.clone(),
            processor: host::last_processor()?,
            directory,
        })
    }

    /// Writes an initial RAM disk beside this program, with it as the first process and the modules that it has to load.
    fn initrd(&self, program: &Path) -> Result<PathBuf> {
        let content = fs::read(program).with_context(|| format!("reading {}", program.display()))?;
        let assembled = match &self.image {
            Some(image) => image.initrd(&content)?,
            None => initrd::assemble(&content, &[]).context("building an initial RAM disk")?,
        };
        let path = program.with_extension("initrd");
        fs::write(&path, assembled).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }
}

/// Takes the figures and prints them.
pub fn run(root: &Path, args: &BenchArgs) -> Result<()> {
    packages::ensure(&["qemu-system-x86", "util-linux"])?;
    if args.wants(Part::Boot) {
        packages::ensure(packages::FOR_DISKS)?;
    }
    let bench = Bench::new(root, args)?;
    let host = host::Host::read(bench.processor)?;
    let boot = args.wants(Part::Boot).then(|| boot::measure(root, &bench)).transpose()?;
    let guest = args.wants(Part::Guest).then(|| guest::measure(root, &bench)).transpose()?;
    let devices = args.wants(Part::Devices).then(|| devices::measure(root, &bench)).transpose()?;
    let processors = args.wants(Part::Processors).then(|| processors::measure(root, &bench)).transpose()?;
    match args.output {
        Output::Table => {
            println!("\n{host}");
            boot.iter().for_each(|boot| println!("\n{boot}"));
            guest.iter().chain(devices.iter().flatten()).for_each(|work| println!("\n{work}"));
            processors.iter().for_each(|processors| println!("\n{processors}"));
        }
        Output::Json => {
            let figures = json!({
                "host": host.to_json(),
                "runs": args.runs,
                "engine_options": bench.engine_options,
                "boot": boot.map(|boot| boot.to_json()),
                "guest": guest.map(|guest| guest.to_json()),
                "devices": devices.map(|groups| groups.iter().map(Workloads::to_json).collect::<Vec<_>>()),
                "processors": processors.map(|processors| processors.to_json()),
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

/// The image whose kernel and whose release of Debian the guests have.
fn image_name() -> Result<ImageName> {
    Ok("debian".parse()?)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn args(words: &[&str]) -> BenchArgs {
        Cli::try_parse_from([&["bench"], words].concat()).unwrap().bench
    }

    #[test]
    fn rows_are_separated_by_commas_and_are_the_guests() {
        let some = args(&["--rows", "xz,gcc", "--engine-opt", "tier=interp", "--engine-opt", "a=b"]);
        assert_eq!((some.rows.clone(), some.engine_options.len()), (vec!["xz".into(), "gcc".into()], 2));
        assert!(some.wants(Part::Guest) && !some.wants(Part::Boot));
    }

    #[test]
    fn all_parts_run_unless_one_is_named() {
        let all = args(&[]);
        assert!(all.wants(Part::Guest) && all.wants(Part::Boot));
        let boot = args(&["boot"]);
        assert!(boot.wants(Part::Boot) && !boot.wants(Part::Guest));
    }
}
