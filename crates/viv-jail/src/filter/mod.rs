//! Filters of system calls, one for each kind of thread.
//!
//! A system call that a thread's filter does not allow raises SIGSYS, by which the process says which one it was and dies
//! ([`last_words`](crate::last_words)). The few by which libraries only look whether a file is there are answered as an
//! empty file system would ([`lists::LOOKS`]).
//!
//! Three filters lie on each thread, of which each has to allow a call: the answers to looks; the base, which all threads
//! have from their start, and which is all that a thread has that was not started by [`spawn`](crate::spawn); the thread's own.

mod lists;
mod rule;

use std::io;

use seccompiler::{BpfProgram, SeccompAction};

use self::rule::{Rule, compile};

/// What a thread does, and by that what it may ask of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThreadKind {
    /// Waits for the process in the jail.
    Supervisor,
    /// Takes requests, loads, saves and restores.
    Control,
    /// Runs guest code, and what devices do at once.
    Vcpu,
    /// Serves queues, disks and timers.
    Devices,
    /// Carries bytes between a device and a stream of the host.
    Stream,
    /// Wakes vCPUs.
    Alarm,
    /// Reads and writes a disk's files by io_uring.
    Disk,
    /// Speaks for guests on the host's network.
    Network,
    /// Carries bytes between guests and programs of the host, over sockets that it is given.
    Vsock,
}

impl ThreadKind {
    const ALL: [Self; 9] = [
        Self::Supervisor,
        Self::Control,
        Self::Vcpu,
        Self::Devices,
        Self::Stream,
        Self::Alarm,
        Self::Disk,
        Self::Network,
        Self::Vsock,
    ];

    /// What it may call, beside [`lists::EVERY_THREAD`].
    fn lists(self) -> &'static [&'static [Rule]] {
        match self {
            Self::Supervisor => &[lists::SUPERVISOR],
            Self::Control => &[
                lists::WAIT,
                lists::FILES,
                lists::TIMERS,
                lists::SIGNALS,
                lists::CONTROL,
                lists::DISK,
                lists::TAP,
            ],
            Self::Vcpu => &[lists::FILES, lists::TIMERS, lists::SIGNALS, lists::DISK, lists::TAP],
            Self::Devices => &[lists::WAIT, lists::FILES, lists::TIMERS, lists::SIGNALS],
            Self::Stream => &[lists::WAIT],
            Self::Alarm => &[lists::ALARM],
            Self::Disk => &[lists::WAIT, lists::FILES, lists::TIMERS, lists::SIGNALS, lists::DISK],
            Self::Network => &[lists::WAIT, lists::SIGNALS, lists::NETWORK, lists::TAP],
            Self::Vsock => &[lists::WAIT, lists::SIGNALS, lists::VSOCK],
        }
    }

    /// Whether it makes calls to KVM, where that is the engine.
    const fn uses_kvm(self) -> bool {
        matches!(self, Self::Control | Self::Vcpu | Self::Devices | Self::Disk | Self::Network | Self::Vsock)
    }
}

/// All filters, ready to be installed.
#[derive(Debug)]
pub(crate) struct Filters {
    looks: BpfProgram,
    base: BpfProgram,
    /// In the order of [`ThreadKind::ALL`].
    kinds: Vec<BpfProgram>,
}

impl Filters {
    /// The filters of a process that uses KVM, or does not.
    ///
    /// # Errors
    /// When a list makes no filter.
    pub(crate) fn compile(kvm: bool) -> io::Result<Self> {
        // Looks pass here: they are answered by a filter of their own.
        let allow = |lists: &[&[Rule]]| compile(lists, SeccompAction::Trap, SeccompAction::Allow);
        let kind = |kind: ThreadKind| {
            let mut all = vec![lists::LOOKS, lists::EVERY_THREAD];
            all.extend(kind.lists());
            if kvm && kind.uses_kvm() {
                all.push(lists::KVM);
            }
            if kvm && kind == ThreadKind::Vcpu {
                all.push(lists::KVM_VCPU);
            }
            allow(&all)
        };
        let mut base = vec![lists::LOOKS, lists::EVERY_THREAD, lists::BUILDING];
        let kinds = ThreadKind::ALL.iter().filter(|kind| **kind != ThreadKind::Supervisor);
        base.extend(kinds.flat_map(|kind| kind.lists()));
        if kvm {
            base.push(lists::KVM_BUILDING);
        }
        Ok(Self {
            looks: compile(
                &[lists::ANSWERED],
                SeccompAction::Allow,
                SeccompAction::Errno(libc::ENOENT as u32),
            )?,
            base: allow(&base)?,
            kinds: ThreadKind::ALL.into_iter().map(kind).collect::<io::Result<_>>()?,
        })
    }

    /// Puts the calling thread, and all that it will start, under the base.
    ///
    /// # Errors
    /// When the kernel takes no filters.
    pub(crate) fn install_base(&self) -> io::Result<()> {
        apply(&self.looks)?;
        apply(&self.base)
    }

    /// Puts the calling thread under the filter of its kind.
    ///
    /// # Errors
    /// When the kernel takes no filters.
    pub(crate) fn install(&self, kind: ThreadKind) -> io::Result<()> {
        let index = ThreadKind::ALL.iter().position(|known| *known == kind);
        index.and_then(|index| self.kinds.get(index)).map_or(Ok(()), apply)
    }
}

fn apply(filter: &BpfProgram) -> io::Result<()> {
    seccompiler::apply_filter(filter).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_made_and_fit_the_kernel() {
        for kvm in [false, true] {
            let filters = Filters::compile(kvm).unwrap();
            for filter in filters.kinds.iter().chain([&filters.base, &filters.looks]) {
                assert!((1..4096).contains(&filter.len()), "{}", filter.len());
            }
        }
    }

    #[test]
    fn rings_are_for_disks_and_who_stops_them_and_sockets_for_networks() {
        let allows =
            |kind: ThreadKind, call| kind.lists().iter().copied().flatten().any(|rule| rule.call == call);
        for kind in ThreadKind::ALL {
            let stops_disks = matches!(kind, ThreadKind::Control | ThreadKind::Vcpu | ThreadKind::Disk);
            assert_eq!(allows(kind, libc::SYS_io_uring_enter), stops_disks, "{kind:?}");
            assert!(!allows(kind, libc::SYS_io_uring_register), "{kind:?}");
            for call in [libc::SYS_socket, libc::SYS_connect, libc::SYS_bind] {
                assert_eq!(allows(kind, call), kind == ThreadKind::Network, "{kind:?}");
            }
        }
    }
}
