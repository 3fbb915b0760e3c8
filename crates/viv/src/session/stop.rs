//! Ending a guest: in order first, then harder, each step with its time.

use std::time::{Duration, Instant};

/// How long a guest may take to power off.
const IN_ORDER: Duration = Duration::from_secs(5);

/// How long the VM process may take to end once it was told to.
const CUT: Duration = Duration::from_secs(2);

/// Why a session is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// This signal came.
    Signal(i32),
    /// The user pressed the escape.
    Escape,
    /// The user's terminal was hung up.
    TerminalClosed,
    /// Nobody reads standard output any more.
    OutputClosed,
    /// Something failed that the session cannot go on without.
    Failed,
}

impl Cause {
    /// Whether a person or a program asks for it, and means more by asking twice.
    pub const fn is_request(self) -> bool {
        matches!(self, Self::Signal(_) | Self::Escape)
    }
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Ask the guest to power off.
    PowerButton,
    /// Tell the VM process to end the machine.
    Cut,
    /// Kill the VM process.
    Kill,
}

/// A stop under way.
#[derive(Debug)]
pub struct Stop {
    /// What began it.
    pub cause: Cause,
    next: Option<Step>,
    /// When `next` is due; none: now.
    due: Option<Instant>,
    impatient: bool,
}

impl Stop {
    /// A stop that begins now; with the power button if the guest `listens` to it.
    pub fn new(cause: Cause, listens: bool) -> Self {
        let first = if listens { Step::PowerButton } else { Step::Cut };
        Self { cause, next: Some(first), due: None, impatient: false }
    }

    /// Makes the next step due now.
    pub fn hasten(&mut self) {
        self.due = None;
        self.impatient = true;
    }

    /// When the next step is due, if there is one.
    pub fn deadline(&self) -> Option<Instant> {
        self.next.and(self.due)
    }

    /// Whether it was asked for more than once.
    pub const fn is_impatient(&self) -> bool {
        self.impatient
    }

    /// The step that is due at `now`; it counts as taken.
    pub fn next(&mut self, now: Instant) -> Option<Step> {
        if self.due.is_some_and(|due| now < due) {
            return None;
        }
        let step = self.next?;
        (self.next, self.due) = match step {
            Step::PowerButton => (Some(Step::Cut), Some(now + IN_ORDER)),
            Step::Cut => (Some(Step::Kill), Some(now + CUT)),
            Step::Kill => (None, None),
        };
        Some(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_gets_harder_with_time() {
        let start = Instant::now();
        let mut stop = Stop::new(Cause::Signal(15), true);
        assert_eq!(stop.next(start), Some(Step::PowerButton));
        assert_eq!(stop.next(start + IN_ORDER / 2), None);
        assert_eq!(stop.deadline(), Some(start + IN_ORDER));
        assert_eq!(stop.next(start + IN_ORDER), Some(Step::Cut));
        assert_eq!(stop.next(start + IN_ORDER + CUT), Some(Step::Kill));
        assert_eq!(stop.deadline(), None);
        assert_eq!(stop.next(start + 10 * IN_ORDER), None);
    }

    #[test]
    fn asking_again_hastens_it() {
        let start = Instant::now();
        let mut stop = Stop::new(Cause::Escape, true);
        assert_eq!(stop.next(start), Some(Step::PowerButton));
        stop.hasten();
        assert_eq!(stop.next(start), Some(Step::Cut));
        assert!(stop.is_impatient());
    }

    #[test]
    fn a_guest_that_does_not_listen_is_not_asked() {
        let mut stop = Stop::new(Cause::TerminalClosed, false);
        assert_eq!(stop.next(Instant::now()), Some(Step::Cut));
    }
}
