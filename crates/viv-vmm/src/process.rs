//! The VM process's own side of its life.

use std::os::fd::OwnedFd;
use std::process::ExitCode;

/// Runs the VM process to its end: reads requests from `control`, builds the machine, runs it.
///
/// Never leaves a machine behind: when it returns, everything is stopped.
#[must_use]
pub fn main(control: OwnedFd) -> ExitCode {
    drop(control);
    ExitCode::FAILURE
}
