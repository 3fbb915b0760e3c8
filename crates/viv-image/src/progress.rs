//! Telling the user what is going on.

use std::fmt;

/// A part of the work that takes long enough to be named. Some run at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Another process is building; its result may be all that is needed.
    Waiting,
    /// Installing programs that the build needs.
    Tools,
    /// Fetching the archive's list of packages.
    Index,
    /// Fetching and installing the packages of the root file system.
    Packages,
    /// Fetching and unpacking the kernel.
    Kernel,
    /// Writing the root file system into a disk.
    Disk,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting => "waiting for another build",
            Self::Tools => "installing build programs",
            Self::Index => "reading the archive's index",
            Self::Packages => "installing packages",
            Self::Kernel => "fetching the kernel",
            Self::Disk => "writing the disk",
        })
    }
}

/// Who is told, and who may call it off. Methods come from several threads.
pub trait Progress: Sync {
    /// A stage begins.
    fn begin(&self, stage: Stage);
    /// This much of a stage is done, from 0 to 1; an estimate that never falls. Not every stage has it.
    fn advance(&self, stage: Stage, fraction: f64);
    /// A stage has ended well.
    fn end(&self, stage: Stage);
    /// Something to show as it is, such as a command that changes the host.
    fn note(&self, text: &str);
    /// Whether to stop, asked several times a second. The work ends as soon as it can, with nothing left
    /// behind.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: Stage) {}
    fn advance(&self, _: Stage, _: f64) {}
    fn end(&self, _: Stage) {}
    fn note(&self, _: &str) {}
}
