//! Bytes on their way from a device to the controller.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// A device's bytes, in two lines: what answers a command goes before what happened meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Outbox {
    answers: VecDeque<u8>,
    reports: VecDeque<u8>,
    /// The last byte that left, for a controller that asks to have it again.
    last: u8,
}

impl Outbox {
    /// How many bytes of answers can wait: more than any command gives.
    const ANSWERS: usize = 16;
    /// How many bytes of reports can wait.
    const REPORTS: usize = 64;

    /// Adds the answer to a command. One that nobody fetches is dropped.
    pub(super) fn answer(&mut self, bytes: &[u8]) {
        if self.answers.len().saturating_add(bytes.len()) <= Self::ANSWERS {
            self.answers.extend(bytes);
        }
    }

    /// Adds a report, all of it or nothing, and says whether there was room.
    pub(super) fn report(&mut self, bytes: &[u8]) -> bool {
        let room = self.report_fits(bytes.len());
        if room {
            self.reports.extend(bytes);
        }
        room
    }

    /// Whether a report of so many bytes has room.
    pub(super) fn report_fits(&self, bytes: usize) -> bool {
        self.reports.len().saturating_add(bytes) <= Self::REPORTS
    }

    /// Forgets what happened.
    pub(super) fn clear_reports(&mut self) {
        self.reports.clear();
    }

    /// Sends the last byte again.
    pub(super) fn repeat(&mut self) {
        let last = self.last;
        self.answer(&[last]);
    }

    /// The next byte.
    pub(super) fn take(&mut self) -> Option<u8> {
        let next = self.answers.pop_front().or_else(|| self.reports.pop_front());
        self.last = next.unwrap_or(self.last);
        next
    }

    /// Whether a saved one can be.
    pub(super) fn is_valid(&self) -> bool {
        self.answers.len() <= Self::ANSWERS && self.reports.len() <= Self::REPORTS
    }
}
