//! Messages for whoever reads the guest's console.

use std::fs::OpenOptions;
use std::io::Write;

/// Tells of something that went wrong, through the kernel's log so that it shows on the console and in
/// `dmesg` alike; by standard error while there is no `/dev/kmsg`.
pub(crate) fn problem(message: &str) {
    // Level 3 (error) is the lowest that a console still shows under `quiet`.
    let record = format!("<3>viv-guest: {message}\n");
    let logged =
        OpenOptions::new().write(true).open("/dev/kmsg").and_then(|mut log| log.write_all(record.as_bytes()));
    if logged.is_err() {
        // Nothing is left to tell if this fails too.
        let _ = writeln!(std::io::stderr(), "viv-guest: {message}");
    }
}

/// An error and all its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
