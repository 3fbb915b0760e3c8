//! The project's own chores, as `cargo xtask CHORE`.
//!
//! - [`check`]: what `cargo xtask test` runs, in which order, and the sum of it.
//! - [`bench`]: the figures of the software CPU, beside QEMU's.
//! - [`soak`]: the long runs. [`fuzz`]: random guests. [`workouts`]: real programs on the host and in guests.
//! - [`packages`]: the Debian packages that chores need.
//! - [`deny`]: `cargo deny`, with a copy of its own if there is none.
//! - [`step`]: running a command and telling how it went.
//!
//! A chore that fails says which of its steps did, and exits with 1.
#![forbid(unsafe_code)]

mod bench;
mod check;
mod deny;
mod fuzz;
mod packages;
mod soak;
mod step;
mod workouts;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The project's chores.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

/// The chores there are.
#[derive(Debug, Subcommand)]
enum Chore {
    /// Check everything that must hold before a change goes in: format, lints, dependencies, tests
    ///
    /// Debian packages that tests need are installed first, where this runs as root.
    Test,
    /// Take the figures of the software CPU, with QEMU's translator beside it
    Bench(bench::BenchArgs),
    /// Run for long what must never fail: the differential suites, boots, programs checked against the host's
    Soak(soak::SoakArgs),
    /// Run random guests and random accesses to devices, and look for what differs or fails
    Fuzz(fuzz::FuzzArgs),
}

fn main() -> ExitCode {
    let Cli { chore } = Cli::parse();
    let result = match chore {
        Chore::Test => check::run(&root()),
        Chore::Bench(args) => bench::run(&root(), &args).map(|()| true),
        Chore::Soak(args) => soak::run(&root(), &args).map(|()| true),
        Chore::Fuzz(args) => fuzz::run(&root(), &args).map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the repository.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}
