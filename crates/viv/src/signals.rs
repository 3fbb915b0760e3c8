//! Signals as events of the session.

use std::sync::mpsc::SyncSender;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGWINCH};
use signal_hook::iterator::Signals;

use crate::failure::Failure;
use crate::session::Event;

/// Takes over the signals that end a program or tell of its window, and sends each as an event.
///
/// SIGINT is among them for sessions whose terminal is not raw, where Ctrl-C still means this program.
pub fn forward(events: SyncSender<Event>) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::of("taking over signals", &error);
    let mut signals = Signals::new([SIGTERM, SIGHUP, SIGINT, SIGWINCH]).map_err(failed)?;
    let forward = move || {
        for signal in signals.forever() {
            let event = if signal == SIGWINCH { Event::Resized } else { Event::Signal(signal) };
            if events.send(event).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("signals".into()).spawn(forward).map_err(failed)?;
    Ok(())
}
