//! When what is to be done by itself is due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use crate::core::Token;

/// What one owner has set. Moving it to a later time costs nothing.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    due: Option<Instant>,
    /// The earliest entry in the queue.
    queued: Option<Instant>,
}

impl Alarm {
    /// When it goes off.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    pub(crate) fn clear(&mut self) {
        self.due = None;
    }
}

/// All alarms that are set.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    queue: BinaryHeap<Reverse<(Instant, Token)>>,
}

impl Timers {
    /// Sets an alarm, again or anew.
    pub(crate) fn set(&mut self, alarm: &mut Alarm, token: Token, after: Duration) {
        let Some(due) = Instant::now().checked_add(after) else { return };
        alarm.due = Some(due);
        if alarm.queued.is_none_or(|queued| due < queued) {
            alarm.queued = Some(due);
            self.queue.push(Reverse((due, token)));
        }
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Drops the entries of those that are gone.
    pub(crate) fn retain(&mut self, mut is_live: impl FnMut(Token) -> bool) {
        self.queue.retain(|Reverse((_, token))| is_live(*token));
    }

    /// When the next entry is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.queue.peek().map(|Reverse((due, _))| *due)
    }

    /// Takes the next entry that is due.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<(Instant, Token)> {
        if self.next()? > now {
            return None;
        }
        self.queue.pop().map(|Reverse(entry)| entry)
    }

    /// Whether the alarm of an entry that was taken goes off; if it was moved, it is queued again.
    pub(crate) fn goes_off(&mut self, alarm: &mut Alarm, token: Token, entry: Instant, now: Instant) -> bool {
        if alarm.queued != Some(entry) {
            return false;
        }
        alarm.queued = None;
        match alarm.due {
            Some(due) if due <= now => {
                alarm.due = None;
                true
            }
            Some(due) => {
                alarm.queued = Some(due);
                self.queue.push(Reverse((due, token)));
                false
            }
            None => false,
        }
    }
}
