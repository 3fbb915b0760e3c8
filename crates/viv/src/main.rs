//! The command line of Vivarium.
//!
//! It reads what the user wants, has it done by the crates below, and shows how it went. It keeps no state
//! and knows nothing of devices, engines or image formats.
//!
//! - [`cli`]: subcommands, options and help; [`usage`] puts what is wrong with them into one line.
//! - [`run`]: `viv run`: what is asked for becomes a [`session::Plan`], from an image or a kernel file.
//! - [`session`]: one VM process with its streams and the user's, from start to end.
//! - [`terminal`], [`escape`], [`signals`]: the user's side of a session.
//! - [`stats`]: what `viv run --stats` says at the end.
//! - [`image`], [`disk`], [`host`]: the other subcommands. They return what they print.
//!
//! `viv` fails with exactly one line on standard error ([`failure`]) and a status that is not zero: 125 from
//! `viv run`, whose other statuses are the guest's; elsewhere 2 for a command line that is not understood and
//! 1 for the rest.
#![forbid(unsafe_code)]

mod cli;
mod disk;
mod disk_options;
mod escape;
mod failure;
mod host;
mod image;
mod progress;
mod rate;
mod run;
mod session;
mod share_server;
mod signals;
mod size;
mod stats;
mod terminal;
mod usage;

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use signal_hook::consts::SIGPIPE;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::cli::{Cli, Command, HostCommand};
use crate::failure::{Failure, RUN_FAILED};

/// The exit status for a command line that is not understood.
const USAGE: u8 = 2;
/// The exit status for any other failure.
const FAILED: u8 = 1;

fn main() -> ExitCode {
    start_logging();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let running = arguments.get(1).is_some_and(|command| command == "run");
    let failed = if running { RUN_FAILED } else { FAILED };
    let command = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli.command,
        Err(error) => return not_understood(&error, if running { RUN_FAILED } else { USAGE }),
    };
    let printed = match command {
        Command::Run(args) => match run::run(&args) {
            Ok(status) => return ExitCode::from(status),
            Err(failure) => Err(failure),
        },
        Command::Disk(command) => match disk::command(command) {
            Ok((text, 0)) => Ok((text, true)),
            Ok((text, status)) => match print(&text) {
                Ok(()) => return ExitCode::from(status),
                Err(error) => Err(Failure::of("writing to standard output", &error)),
            },
            Err(failure) => Err(failure),
        },
        Command::Host(HostCommand::Check { output }) => host::check(output.form),
        Command::Image(command) => image::command(command).map(|text| (text, true)),
        Command::Version => Ok((format!("viv {}\n", env!("CARGO_PKG_VERSION")), true)),
        Command::Vmm { check_jail: true, .. } => return viv_vmm::process::check_jail(),
        Command::Vmm { jail, .. } => match io::stdin().as_fd().try_clone_to_owned() {
            Ok(control) => return viv_vmm::process::main(control, jail.into()),
            Err(error) => Err(Failure::of("taking over the control socket", &error)),
        },
        Command::Share(share) => match io::stdin().as_fd().try_clone_to_owned() {
            Ok(socket) => return share_server::main(socket, share),
            Err(error) => Err(Failure::of("taking over the socket", &error)),
        },
    };
    match printed.map(|(text, good)| print(&text).map(|()| good)) {
        Ok(Ok(true)) => ExitCode::SUCCESS,
        Ok(Ok(false)) => ExitCode::from(failed),
        // What a program that SIGPIPE ended would have.
        Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::from(128 + SIGPIPE as u8),
        Ok(Err(error)) => complain(&Failure::of("writing to standard output", &error), failed),
        Err(failure) => complain(&failure, failed),
    }
}

/// Prints what a subcommand returned.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Shows a failure, and returns its exit status.
fn complain(failure: &Failure, status: u8) -> ExitCode {
    failure.show();
    ExitCode::from(failure.status_or(status))
}

/// Shows help if that was asked for, or what is wrong with the command line.
fn not_understood(error: &clap::Error, status: u8) -> ExitCode {
    if !error.use_stderr() {
        // Help and version: a closed output is quiet here too.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return ExitCode::from(status);
    }
    complain(&usage::failure(error), status)
}

/// Sends the log to standard error, if `VIV_LOG` asks for one.
fn start_logging() {
    let Some(filter) = std::env::var("VIV_LOG").ok().and_then(|wanted| wanted.parse::<Targets>().ok()) else {
        return;
    };
    let log = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    tracing_subscriber::registry().with(log).with(filter).init();
}
