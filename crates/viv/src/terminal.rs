//! The user's terminal: raw while a guest has it, and given back on every way out.
//!
//! The terminal never leaves this process: the guest's process sees only pipes, so whatever becomes of that
//! process, this one restores the settings. A panic in any thread restores them before its message is
//! printed, and ends the program.

use std::io::{IsTerminal, stdin, stdout};
use std::os::fd::AsFd;
use std::sync::{Mutex, Once, PoisonError};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::failure::{Failure, RUN_FAILED};

/// The settings to go back to, while the terminal is raw.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// Whether a person is at both ends: what is typed and what is printed.
pub fn is_interactive() -> bool {
    stdin().is_terminal() && stdout().is_terminal()
}

/// Columns and rows of the terminal on standard output; none if there is none or it does not know.
pub fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(stdout().as_fd()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

/// The terminal on standard input in raw mode: every key, Ctrl-C included, is read as it was pressed.
/// Dropping it restores the settings found.
#[derive(Debug)]
#[must_use]
pub struct RawTerminal(());

impl RawTerminal {
    /// Makes the terminal on standard input raw.
    pub fn enter() -> Result<Self, Failure> {
        static RESTORE_ON_PANIC: Once = Once::new();
        RESTORE_ON_PANIC.call_once(|| {
            let previous = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                previous(panic);
                // A session that lost one of its threads would wait for it for ever.
                std::process::exit(RUN_FAILED.into());
            }));
        });
        let failed = |error: rustix::io::Errno| Failure::of("making the terminal raw", &error);
        let found = tcgetattr(stdin().as_fd()).map_err(failed)?;
        let mut raw = found.clone();
        raw.make_raw();
        *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        let guard = Self(());
        tcsetattr(stdin().as_fd(), OptionalActions::Now, &raw).map_err(failed)?;
        Ok(guard)
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts back the settings found, if the terminal is raw. Whatever the terminal shows stays as it is.
fn restore() {
    // `try_lock`, for the panic may have struck while the lock was held.
    let saved = match SAVED.try_lock() {
        Ok(mut saved) => saved.take(),
        Err(std::sync::TryLockError::Poisoned(poisoned)) => poisoned.into_inner().take(),
        Err(std::sync::TryLockError::WouldBlock) => None,
    };
    if let Some(found) = saved {
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(stdin().as_fd(), OptionalActions::Now, &found);
    }
}
