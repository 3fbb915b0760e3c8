//! What tests share.

mod fuzz;
pub(crate) mod history;
pub(crate) mod model;
pub(crate) mod recorder;
pub(crate) mod tool;

pub(crate) use viv_fuzz::Random;

use crate::DiskError;

/// Does something to an image that nobody else has open. While another thread starts a program, that one holds our locks
/// for a moment.
pub(crate) fn patiently<T>(mut action: impl FnMut() -> Result<T, DiskError>) -> T {
    loop {
        match action() {
            Err(DiskError::InUse { .. }) => std::thread::yield_now(),
            done => return done.unwrap(),
        }
    }
}

/// The number in the environment, or another.
pub(crate) fn setting(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}
