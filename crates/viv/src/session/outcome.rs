//! What a session comes to: an exit status, and what to say about it.

use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};

use signal_hook::consts::{SIGHUP, SIGINT, SIGPIPE};
use viv_vmm::protocol::End;

use super::Session;
use super::stop::Cause;
use crate::failure::{Failure, RUN_FAILED};

/// Lines of the serial port's output that are shown when a guest did not come up.
const TAIL: usize = 12;

/// The exit status of `viv run` for a signal.
const fn signalled(signal: i32) -> u8 {
    // Signals are numbers from 1 to 64.
    128 + (signal & 0x7f) as u8
}

/// How a session ended.
#[derive(Debug)]
pub struct Outcome {
    /// The exit status.
    pub status: u8,
    /// What the guest's kernel said last, where that explains the failure.
    pub tail: Vec<String>,
    /// The line to show, if anything went wrong.
    pub failure: Option<Failure>,
}

impl Outcome {
    /// Shows what is to be shown, and returns the exit status.
    pub fn show(&self) -> ExitCode {
        let mut err = io::stderr().lock();
        for line in &self.tail {
            let _ = writeln!(err, "  | {line}");
        }
        if let Some(failure) = &self.failure {
            let _ = writeln!(err, "viv: {failure}");
        }
        ExitCode::from(self.status)
    }
}

/// What was known at a session's end, of the things that decide its outcome.
#[derive(Debug)]
struct Facts {
    failure: Option<Failure>,
    stop: Option<Cause>,
    /// The status of the command, once it ended by itself.
    command: Option<u8>,
    end: Option<End>,
    gone: Option<io::Result<ExitStatus>>,
    /// Whether an agent was to run a command.
    agent: bool,
    /// Whether that agent ever spoke.
    ready: bool,
    /// Whether the guest's kernel gave up.
    panicked: bool,
}

/// The outcome of a session that is over.
pub fn of(session: Session) -> Outcome {
    let log = session.log;
    let facts = Facts {
        failure: session.failure,
        stop: session.stop.map(|stop| stop.cause),
        command: session.command,
        end: session.end,
        gone: session.gone,
        agent: session.agent,
        ready: session.ready,
        panicked: log.as_ref().is_some_and(super::log::SerialLog::has_panic),
    };
    // The log tells only of a guest that ran.
    let explains = facts.stop.is_none() && !matches!(facts.end, None | Some(End::Failed { .. }));
    let (status, failure) = facts.judge();
    let tail = match (&failure, log) {
        (Some(_), Some(log)) if explains => log.tail(TAIL),
        _ => Vec::new(),
    };
    Outcome { status, tail, failure }
}

impl Facts {
    fn judge(self) -> (u8, Option<Failure>) {
        if let Some(failure) = self.failure {
            return (RUN_FAILED, Some(failure));
        }
        if let Some(status) = self.command {
            return (status, None);
        }
        match self.stop {
            Some(Cause::Signal(signal)) => return (signalled(signal), None),
            Some(Cause::Escape) => return (signalled(SIGINT), None),
            Some(Cause::TerminalClosed) => return (signalled(SIGHUP), None),
            Some(Cause::OutputClosed) => return (signalled(SIGPIPE), None),
            Some(Cause::Failed) | None => {}
        }
        let what = "running the virtual machine";
        let failure = match self.end {
            Some(End::PoweredOff | End::Reset) if self.panicked => {
                Failure::new(what, "the guest's kernel panicked")
            }
            Some(End::PoweredOff | End::Reset) if self.agent && !self.ready => {
                Failure::new(what, "the guest ended before it could run anything")
            }
            // Somebody in the guest powered it off before the command was done: that is their good right.
            Some(End::PoweredOff | End::Reset | End::Stopped) => return (0, None),
            Some(End::TripleFault(fault)) => Failure::new(what, fault.to_string()),
            Some(End::Failed { message }) => Failure::line(message),
            None => Failure::new(what, died(self.gone.as_ref()))
                .remedy("if it happens again, VIV_LOG=debug shows what it did last"),
        };
        (RUN_FAILED, Some(failure))
    }
}

/// How a VM process ended that did not say so itself.
fn died(status: Option<&io::Result<ExitStatus>>) -> String {
    match status {
        Some(Ok(status)) => match (status.signal(), status.code()) {
            (Some(signal), _) => format!("its process was killed by signal {signal}"),
            (None, Some(code)) => format!("its process ended with status {code} without a word"),
            (None, None) => "its process ended without a word".to_owned(),
        },
        Some(Err(error)) => format!("its process is lost: {error}"),
        None => "its process does not answer".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            failure: None,
            stop: None,
            command: None,
            end: Some(End::PoweredOff),
            gone: Some(Ok(ExitStatus::from_raw(0))),
            agent: true,
            ready: true,
            panicked: false,
        }
    }

    /// The status and the line.
    fn judged(facts: Facts) -> (u8, String) {
        let (status, failure) = facts.judge();
        (status, failure.map(|failure| failure.to_string()).unwrap_or_default())
    }

    #[test]
    fn the_commands_status_is_the_sessions() {
        assert_eq!(judged(Facts { command: Some(3), ..facts() }), (3, String::new()));
        assert_eq!(judged(facts()), (0, String::new()));
    }

    #[test]
    fn a_stop_from_outside_has_the_signals_status() {
        for (cause, status) in [
            (Cause::Signal(15), 143),
            (Cause::Escape, 130),
            (Cause::TerminalClosed, 129),
            (Cause::OutputClosed, 141),
        ] {
            let stopped = Facts { stop: Some(cause), end: Some(End::Stopped), ..facts() };
            assert_eq!(judged(stopped), (status, String::new()), "{cause:?}");
        }
    }

    #[test]
    fn a_guest_that_does_not_come_up_is_a_failure() {
        let (status, line) = judged(Facts { ready: false, ..facts() });
        assert_eq!((status, line.contains("before it could run")), (125, true), "{line}");
        let (status, line) = judged(Facts { panicked: true, end: Some(End::Reset), ..facts() });
        assert_eq!((status, line.contains("panicked")), (125, true), "{line}");
        assert_eq!(judged(Facts { agent: false, ready: false, ..facts() }).0, 0);
    }

    #[test]
    fn a_vm_process_that_dies_is_told_apart() {
        let killed = Facts { end: None, gone: Some(Ok(ExitStatus::from_raw(9))), ..facts() };
        let (status, line) = judged(killed);
        assert_eq!((status, line.contains("killed by signal 9")), (125, true), "{line}");
        let failed = Failure::new("reading standard input", "it broke");
        let (status, line) = judged(Facts { failure: Some(failed), end: None, ..facts() });
        assert_eq!((status, line.as_str()), (125, "reading standard input: it broke"));
    }
}
