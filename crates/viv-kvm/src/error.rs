//! Errors of KVM's as the contract's.

use std::io;

use viv_engine::EngineError;

/// What turns an error of KVM's into one that says what was being done.
pub(crate) fn host(action: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> EngineError {
    move |error| EngineError::Host { action, source: io::Error::from_raw_os_error(error.errno()) }
}

/// The error for the request that has just failed.
pub(crate) fn last(action: &'static str) -> EngineError {
    EngineError::Host { action, source: io::Error::last_os_error() }
}

/// The error for something that KVM or the host answers and should not.
pub(crate) fn invalid(action: &'static str, what: &str) -> EngineError {
    EngineError::Host { action, source: io::Error::other(what.to_owned()) }
}
