//! The key that leaves the guest: Ctrl-] pressed three times within a second.
//!
//! Every press but the last still goes to the guest, so nothing a program in it waits for is held back or
//! delayed. A shell user does not press Ctrl-] three times in a row by accident; and two presses are what
//! bash takes for a whole command (search for a character), so that it is not left in the middle of one.

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
    /// Where in `typed`, read at `now`, the press is that completes the escape. Any other key in between starts
    /// it over.
    pub fn feed(&mut self, typed: &[u8], now: Instant) -> Option<usize> {
        for (at, &byte) in typed.iter().enumerate() {
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
                *self = Self::default();
                return Some(at);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_presses_in_a_second_complete_it() {
        let start = Instant::now();
        let mut escape = Escape::default();
        assert_eq!(escape.feed(&[KEY], start), None);
        assert_eq!(escape.feed(&[KEY], start + Duration::from_millis(400)), None);
        assert_eq!(escape.feed(&[KEY], start + Duration::from_millis(1000)), Some(0));
        // It starts over after that.
        assert_eq!(escape.feed(&[KEY, KEY], start + Duration::from_millis(1001)), None);
    }

    #[test]
    fn slow_presses_do_not() {
        let start = Instant::now();
        let mut escape = Escape::default();
        assert_eq!(escape.feed(&[KEY, KEY], start), None);
        assert_eq!(escape.feed(&[KEY], start + Duration::from_millis(1001)), None);
    }

    #[test]
    fn another_key_starts_it_over() {
        let start = Instant::now();
        let mut escape = Escape::default();
        assert_eq!(escape.feed(&[KEY, KEY, b'x', KEY, KEY], start), None);
        assert_eq!(escape.feed(&[KEY, b'y'], start), Some(0));
    }
}
