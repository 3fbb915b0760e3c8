//! Threads, each under its filter.

use std::io;
use std::thread::{Builder, JoinHandle};

use crate::filter::ThreadKind;
use crate::stage::confine;

/// Starts a thread that runs `run` under the filter of its kind. In a process that is in no jail it is a thread like any
/// other.
///
/// # Errors
/// When the host gives no thread.
///
/// # Panics
/// In the new thread, when the host does not take its filter: it must not run without.
pub fn spawn<T: Send + 'static>(
    kind: ThreadKind,
    name: impl Into<String>,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.into()).spawn(move || {
        if let Err(error) = confine(kind) {
            panic!("{error}: {}", error.0);
        }
        run()
    })
}
