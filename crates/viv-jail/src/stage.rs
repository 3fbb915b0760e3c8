//! Going to jail, step by step.

use std::fmt::Display;
use std::io;
use std::sync::OnceLock;

use crate::filter::{Filters, ThreadKind};
use crate::process::Inmate;
use crate::{landlock, limits, namespaces, privileges};

/// The filters of this process, once it is in a jail.
static FILTERS: OnceLock<Filters> = OnceLock::new();

/// What the process needs inside.
#[derive(Debug, Clone, Copy)]
pub struct Inside {
    /// Whether its threads make calls to KVM.
    pub kvm: bool,
    /// Whether it speaks on the host's network: otherwise it has one of its own, with nothing in it.
    pub network: bool,
    /// How many descriptors it may come to have besides, for connections that it is given.
    pub connections: u64,
    /// The size in bytes beyond which no file needs to grow.
    pub largest_file: u64,
}

/// The jail, entered, with its door still open: threads can be started.
#[derive(Debug)]
#[must_use = "threads can be started until it is locked"]
pub struct Jail {
    purpose: Purpose,
    missing: Missing,
}

/// What goes on in a jail.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose {
    /// A machine, which speaks on the host's network or does not.
    Machine { network: bool, connections: u64 },
    /// The server of a shared directory.
    Share,
}

/// Why a thread is not in the jail.
#[derive(Debug, thiserror::Error)]
#[error("cannot put a thread under its filter of system calls")]
pub struct JailError(#[source] pub(crate) io::Error);

/// What the host did not permit, each in one line.
#[derive(Debug, Default)]
pub(crate) struct Missing(Vec<String>);

impl Missing {
    /// Notes that `what` cannot be had, if so.
    pub(crate) fn note<T, E: Display>(&mut self, what: &str, result: Result<T, E>) -> Option<T> {
        result.inspect_err(|error| self.0.push(format!("{what}: {error}"))).ok()
    }
}

impl Inmate {
    /// Enters the jail. From here on nothing can be reached but what is open, and what the caller starts is inside as well.
    ///
    /// To be called while there is one thread.
    pub fn enter(self, inside: Inside) -> Jail {
        let Self { own_user_namespace, mut missing } = self;
        namespaces::enter(own_user_namespace, inside.network, &mut missing);
        limits::set(inside.largest_file, &mut missing);
        privileges::drop_all(&mut missing);
        missing.note("Landlock", landlock::restrict(inside.network));
        install(Filters::compile(inside.kvm), &mut missing);
        Jail::new(Purpose::Machine { network: inside.network, connections: inside.connections }, missing)
    }
}

/// Puts the process under the base of filters, and keeps those of its threads.
pub(crate) fn install(filters: io::Result<Filters>, missing: &mut Missing) {
    if let Some(filters) = missing.note("filters of system calls", filters) {
        let installed = filters.install_base();
        if missing.note("filters of system calls", installed).is_some() {
            // A process has one jail.
            let _ = FILTERS.set(filters);
        }
    }
}

impl Jail {
    /// The jail of a process for this, entered.
    pub(crate) fn new(purpose: Purpose, missing: Missing) -> Self {
        Self { purpose, missing }
    }

    /// What the host did not permit, each in one line.
    #[must_use]
    pub fn missing(&self) -> &[String] {
        &self.missing.0
    }

    /// Locks the door: no more threads, hardly more descriptors, and the calling thread under its own filter. Returns what
    /// the host did not permit of all, each in one line.
    ///
    /// # Errors
    /// When the host does not take the filter.
    pub fn lock(mut self) -> Result<Vec<String>, JailError> {
        match self.purpose {
            Purpose::Machine { network, connections } => {
                limits::lock(network, connections, &mut self.missing);
                confine(ThreadKind::Control)?;
            }
            Purpose::Share => {
                limits::lock_share(&mut self.missing);
                confine(ThreadKind::ShareControl)?;
            }
        }
        Ok(self.missing.0)
    }
}

/// Puts the calling thread under the filter of its kind; in a process without a jail nothing happens.
pub(crate) fn confine(kind: ThreadKind) -> Result<(), JailError> {
    FILTERS.get().map_or(Ok(()), |filters| filters.install(kind)).map_err(JailError)
}
