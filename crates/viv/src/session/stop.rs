//! Ending a guest: in order first, then harder, each step with its time.

use std::time::{Duration, Instant};

use signal_hook::consts::SIGHUP;

/// How long a guest may take to power off. Its own init gives programs 5 seconds of it.
const IN_ORDER: Duration = Duration::from_secs(8);

/// How long the VM process may take to end once it was told to.
const CUT: Duration = Duration::from_secs(2);

/// How long a signal says the same again: it may reach a process by its own name and by that of its group.
const ECHO: Duration = Duration::from_secs(1);

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
    begun: Instant,
    next: Option<Step>,
    /// When `next` is due; none: now.
    due: Option<Instant>,
    impatient: bool,
}

impl Stop {
    /// A stop that begins at `now`; with the power button if the guest `listens` to it.
    pub fn new(cause: Cause, listens: bool, now: Instant) -> Self {
        let first = if listens { Step::PowerButton } else { Step::Cut };
        Self { cause, begun: now, next: Some(first), due: None, impatient: false }
    }

    /// Takes up another cause: who asks again, by a key or a signal, waits no longer for the next step.
    pub fn again(&mut self, cause: Cause, now: Instant) {
        let impatient = match cause {
            Cause::Escape => true,
            // A closed terminal brings SIGHUP with it, often more than once.
            Cause::Signal(SIGHUP) | Cause::TerminalClosed | Cause::OutputClosed | Cause::Failed => false,
            Cause::Signal(_) => now.duration_since(self.begun) > ECHO,
        };
        if impatient {
            self.due = None;
            self.impatient = true;
        }
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
        let mut stop = Stop::new(Cause::Signal(15), true, start);
        assert_eq!(stop.next(start), Some(Step::PowerButton));
        assert_eq!(stop.next(start + IN_ORDER / 2), None);
        assert_eq!(stop.deadline(), Some(start + IN_ORDER));
        assert_eq!(stop.next(start + IN_ORDER), Some(Step::Cut));
        assert_eq!(stop.next(start + IN_ORDER + CUT), Some(Step::Kill));
        assert_eq!(stop.deadline(), None);
        assert_eq!(stop.next(start + 10 * IN_ORDER), None);
    }

    /// What a stop that has just begun does when `cause` comes after `later`.
    fn after(cause: Cause, later: Duration) -> Option<Step> {
        let start = Instant::now();
        let mut stop = Stop::new(Cause::Escape, true, start);
        assert_eq!(stop.next(start), Some(Step::PowerButton));
        stop.again(cause, start + later);
        let step = stop.next(start + later);
        assert_eq!(stop.is_impatient(), step.is_some());
        step
    }

    #[test]
    fn asking_again_hastens_it() {
        assert_eq!(after(Cause::Escape, Duration::ZERO), Some(Step::Cut));
        assert_eq!(after(Cause::Signal(15), 2 * ECHO), Some(Step::Cut));
    }

    #[test]
    fn what_comes_of_the_same_does_not() {
        assert_eq!(after(Cause::Signal(15), Duration::ZERO), None);
        assert_eq!(after(Cause::Signal(SIGHUP), 2 * ECHO), None);
        assert_eq!(after(Cause::TerminalClosed, 2 * ECHO), None);
    }

    #[test]
    fn a_guest_that_does_not_listen_is_not_asked() {
        let now = Instant::now();
        assert_eq!(Stop::new(Cause::TerminalClosed, false, now).next(now), Some(Step::Cut));
    }
}
