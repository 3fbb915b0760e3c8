//! What goes wrong with back ends.

use std::io;

/// Why a back end cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host gives no thread or descriptor.
    #[error("cannot {action}")]
    Host {
        /// What was being done.
        action: &'static str,
        /// What the host answered.
        #[source]
        source: io::Error,
    },
    /// It is lost.
    #[error(transparent)]
    Lost(#[from] Lost),
    /// It lacks what is needed.
    #[error("the back end lacks {0}: it is of another kind or too old")]
    Lacks(&'static str),
}

impl Error {
    pub(crate) fn host(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Host { action, source }
    }
}

/// Why a back end is of no more use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// It does not answer.
    #[error("the back end did not answer within {seconds} s when asked to {action}")]
    Silent {
        /// What it was asked.
        action: &'static str,
        /// For how long it was waited for.
        seconds: u64,
    },
    /// It says no, or what makes no sense, or nothing any more.
    #[error("the back end was asked to {action}: {why}")]
    Failed {
        /// What it was asked.
        action: &'static str,
        /// What is wrong.
        why: String,
    },
    /// What it does to a ring makes no sense.
    #[error("the back end broke a ring: {0}")]
    Ring(&'static str),
    /// It closed its end of the socket.
    #[error("the back end closed the connection")]
    HungUp,
}
