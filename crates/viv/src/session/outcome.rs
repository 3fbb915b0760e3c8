//! What a session comes to: an exit status, and what to say about it.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use signal_hook::consts::{SIGHUP, SIGINT, SIGPIPE};
use viv_vmm::protocol::End;

use super::Session;
use super::stop::Cause;
use crate::failure::Failure;

/// Lines of the serial port's output that are shown when a guest did not come up.
const TAIL: usize = 12;

/// The exit status of `viv run` for a signal.
const fn signalled(signal: i32) -> u8 {
    // Signals are numbers from 1 to 64.
    128 + (signal & 0x7f) as u8
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
    /// Why the guest's kernel gave up, if it did.
    panic: Option<String>,
}

/// The exit status of a session that is over.
pub fn of(session: Session) -> Result<u8, Failure> {
    let log = session.log;
    let facts = Facts {
        failure: session.failure,
        stop: session.stop.map(|stop| stop.cause),
        command: session.command,
        end: session.end,
        gone: session.gone,
        agent: session.agent,
        ready: session.ready,
        panic: log.as_ref().and_then(super::log::SerialLog::panic),
    };
    // The log tells only of a guest that ran.
    let explains = facts.stop.is_none() && !matches!(facts.end, None | Some(End::Failed { .. }));
    let log = log.filter(|_| explains);
    facts.judge().map_err(|failure| failure.quote(log.map(|log| log.tail(TAIL)).unwrap_or_default()))
}

impl Facts {
    fn judge(self) -> Result<u8, Failure> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        if let Some(status) = self.command {
            return Ok(status);
        }
        match self.stop {
            Some(Cause::Signal(signal)) => return Ok(signalled(signal)),
            Some(Cause::Escape) => return Ok(signalled(SIGINT)),
            Some(Cause::TerminalClosed) => return Ok(signalled(SIGHUP)),
            Some(Cause::OutputClosed) => return Ok(signalled(SIGPIPE)),
            Some(Cause::Failed) | None => {}
        }
        let what = "running the virtual machine";
        if let (Some(End::PoweredOff | End::Reset | End::Panicked), Some(why)) = (&self.end, self.panic) {
            return Err(Failure::new(what, format!("the guest's kernel panicked: {why}")));
        }
        let failure = match self.end {
            Some(End::PoweredOff | End::Reset) if self.agent && !self.ready => {
                Failure::new(what, "the guest ended before it could run anything")
            }
            // Somebody in the guest powered it off before the command was done: that is their good right.
            Some(End::PoweredOff | End::Reset | End::Stopped) => return Ok(0),
            Some(End::Exited { status }) => return Ok(status),
            Some(end @ (End::Panicked | End::WatchdogExpired | End::TripleFault(_))) => {
                Failure::new(what, end.to_string())
            }
            Some(End::Failed { message }) => Failure::line(message),
            None => Failure::new(what, died(self.gone.as_ref()))
                .remedy("if it happens again, VIV_LOG=debug shows what it did last"),
        };
        Err(failure)
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
            panic: None,
        }
    }

    /// The line of a failure.
    fn line(facts: Facts) -> String {
        facts.judge().expect_err("a failure").to_string()
    }

    #[test]
    fn the_commands_status_is_the_sessions() {
        assert_eq!(Facts { command: Some(3), ..facts() }.judge().expect("a status"), 3);
        assert_eq!(facts().judge().expect("a status"), 0);
    }

    #[test]
    fn the_exit_port_has_the_status() {
        let ended = Facts { agent: false, end: Some(End::Exited { status: 85 }), ..facts() };
        assert_eq!(ended.judge().expect("a status"), 85);
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
            assert_eq!(stopped.judge().expect("a status"), status, "{cause:?}");
        }
    }

    #[test]
    fn a_guest_that_does_not_come_up_is_a_failure() {
        assert!(line(Facts { ready: false, ..facts() }).contains("before it could run"));
        assert!(
            line(Facts { panic: Some("no init".to_owned()), end: Some(End::Reset), ..facts() })
                .contains("panicked")
        );
        assert_eq!(Facts { agent: false, ready: false, ..facts() }.judge().expect("a status"), 0);
    }

    #[test]
    fn a_guest_that_panics_or_hangs_is_a_failure() {
        let panicked = || Facts { end: Some(End::Panicked), ..facts() };
        assert!(line(panicked()).ends_with("the guest's kernel panicked"));
        assert!(
            line(Facts { panic: Some("no init".to_owned()), ..panicked() }).ends_with("panicked: no init")
        );
        assert!(line(Facts { end: Some(End::WatchdogExpired), ..facts() }).contains("watchdog"));
    }

    #[test]
    fn a_vm_process_that_dies_is_told_apart() {
        let killed = Facts { end: None, gone: Some(Ok(ExitStatus::from_raw(9))), ..facts() };
        assert!(line(killed).contains("killed by signal 9"));
        let failed = Failure::new("reading standard input", "it broke");
        assert_eq!(
            line(Facts { failure: Some(failed), end: None, ..facts() }),
            "reading standard input: it broke"
        );
    }
}
