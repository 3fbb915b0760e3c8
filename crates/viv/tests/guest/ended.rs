//! Running a program to its end, which comes in time or is a failure.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::debian::is_tortured;

/// How long anything here may take. It is no measure of speed: a guest that hangs would stay for ever.
const PATIENCE: Duration = Duration::from_secs(900);
/// How long under torture.
const PATIENCE_IN_TORTURE: Duration = Duration::from_secs(3600);

/// A program that ended.
#[derive(Debug)]
pub struct Ended {
    pub status: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Ended {
    /// What it printed.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Asserts that it succeeded in silence; what it printed.
    pub fn succeeded(&self) -> String {
        assert_eq!((self.status, self.stderr.as_str()), (0, ""), "{}", self.text());
        self.text()
    }
}

/// Runs a program to its end with this input.
pub fn feed(command: &mut Command, input: &[u8]) -> Ended {
    let mut child = start(command);
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    // A program that ends early does not read all of it.
    let feeder = thread::spawn(move || drop(stdin.write_all(&input)));
    let ended = wait(child);
    feeder.join().expect("fed");
    ended
}

/// Starts a program on pipes.
pub fn start(command: &mut Command) -> Child {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Waits for a program's end.
pub fn wait(child: Child) -> Ended {
    let guard = Guard::of(&child);
    let output = child.wait_with_output().expect("waited for");
    drop(guard);
    Ended {
        status: output.status.code().unwrap_or_else(|| panic!("it {}", output.status)),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Kills a program that takes too long, unless it is dropped before.
#[derive(Debug)]
pub struct Guard {
    _done: mpsc::Sender<()>,
}

impl Guard {
    /// Watches over a program.
    pub fn of(child: &Child) -> Self {
        let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).expect("a pidfd");
        let (done, watched) = mpsc::channel();
        thread::spawn(move || {
            let patience = if is_tortured() { PATIENCE_IN_TORTURE } else { PATIENCE };
            if watched.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
                // Who waits for it sees this signal.
                let _ = pidfd_send_signal(&process, Signal::KILL);
            }
        });
        Self { _done: done }
    }
}

/// Says what a test leaves out, past the capture of its output.
pub fn not_tested(what: &str) {
    // Nobody is told if nobody reads it.
    let _ = writeln!(std::io::stderr(), "NOT TESTED: {what}");
}
