//! The key that leaves the guest: Ctrl-] pressed three times within a second.
//!
//! Every press still goes to the guest, so nothing a program in it waits for is held back or delayed; a
//! shell user does not press Ctrl-] three times in a row by accident.

use std::time::{Duration, Instant};

/// What Ctrl-] sends: ASCII GS.
const KEY: u8 = 0x1d;

/// Presses that end the guest.
const PRESSES: u8 = 3;

/// The time they must fall in, from the first to the last.
const WITHIN: Duration = Duration::from_secs(1);

/// What the user is told of it.
pub const DESCRIPTION: &str = "Ctrl-] three times within a second";

/// Watches what is typed for the escape.
#[derive(Debug, Default)]
pub struct Escape {
    pressed: u8,
    since: Option<Instant>,
}

impl Escape {
    /// Whether `typed`, read at `now`, completes the escape. Any other key in between starts it over.
    pub fn feed(&mut self, typed: &[u8], now: Instant) -> bool {
        let mut complete = false;
        for &byte in typed {
            if byte != KEY {
                *self = Self::default();
                continue;
            }
            if self.since.is_none_or(|since| now.duration_since(since) > WITHIN) {
                self.since = Some(now);
                self.pressed = 0;
            }
            self.pressed += 1;
            if self.pressed == PRESSES {
                complete = true;
                *self = Self::default();
            }
        }
        complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_presses_in_a_second_complete_it() {
        let start = Instant::now();
        let mut escape = Escape::default();
        assert!(!escape.feed(&[KEY], start));
        assert!(!escape.feed(&[KEY], start + Duration::from_millis(400)));
        assert!(escape.feed(&[KEY], start + Duration::from_millis(1000)));
        // It starts over after that.
        assert!(!escape.feed(&[KEY, KEY], start + Duration::from_millis(1001)));
    }

    #[test]
    fn slow_presses_do_not() {
        let start = Instant::now();
        let mut escape = Escape::default();
        assert!(!escape.feed(&[KEY, KEY], start));
        assert!(!escape.feed(&[KEY], start + Duration::from_millis(1001)));
    }

    #[test]
    fn another_key_starts_it_over() {
        let start = Instant::now();
        let mut escape = Escape::default();
        assert!(!escape.feed(&[KEY, KEY, b'x', KEY, KEY], start));
        assert!(escape.feed(&[KEY], start));
    }
}
