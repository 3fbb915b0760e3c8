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
    /// Has what the guest wrote to a mapped file on the host's disk.
    Pmem,
    /// Speaks for guests on the host's network.
    Network,
    /// Speaks with a device's back end, which is another process.
    BackEnd,
    /// Carries bytes between guests and programs of the host, over sockets that it is given.
    Vsock,
    /// Serves what guests ask of a shared directory.
    Share,
    /// Is told where guests ask it.
    ShareControl,
}

impl ThreadKind {
    /// Those of a machine.
    const OF_MACHINE: [Self; 11] = [
        Self::Supervisor,
        Self::Control,
        Self::Vcpu,
        Self::Devices,
        Self::Stream,
        Self::Alarm,
        Self::Disk,
        Self::Pmem,
        Self::Network,
        Self::BackEnd,
        Self::Vsock,
    ];
    /// Those of a server of a shared directory.
    const OF_SHARE: [Self; 2] = [Self::Share, Self::ShareControl];

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
                lists::HANG_UP,
            ],
            Self::Vcpu => {
                &[lists::FILES, lists::TIMERS, lists::SIGNALS, lists::DISK, lists::TAP, lists::HANG_UP]
            }
            Self::Devices => &[lists::WAIT, lists::FILES, lists::TIMERS, lists::SIGNALS, lists::HANG_UP],
            Self::Stream => &[lists::WAIT],
            Self::Alarm => &[lists::ALARM],
            Self::Disk => &[lists::WAIT, lists::FILES, lists::TIMERS, lists::SIGNALS, lists::DISK],
            Self::Pmem => &[lists::WAIT, lists::SIGNALS, lists::PMEM],
            Self::Network => &[lists::WAIT, lists::SIGNALS, lists::NETWORK, lists::TAP],
            Self::BackEnd => &[lists::BACK_END, lists::HANG_UP],
            Self::Vsock => &[lists::WAIT, lists::SIGNALS, lists::VSOCK],
            Self::Share => &[lists::WAIT, lists::SHARE],
            Self::ShareControl => &[lists::SHARE_CONTROL],
        }
    }

    /// Whether it makes calls to KVM, where that is the engine.
    const fn uses_kvm(self) -> bool {
        matches!(
            self,
            Self::Control
                | Self::Vcpu
                | Self::Devices
                | Self::Disk
                | Self::Pmem
                | Self::Network
                | Self::Vsock
        )
    }
}

/// All filters, ready to be installed.
#[derive(Debug)]
pub(crate) struct Filters {
    looks: BpfProgram,
    base: BpfProgram,
    kinds: Vec<(ThreadKind, BpfProgram)>,
}

impl Filters {
    /// The filters of a process that uses KVM, or does not.
    ///
    /// # Errors
    /// When a list makes no filter.
    pub(crate) fn compile(kvm: bool) -> io::Result<Self> {
        let kind = |kind: ThreadKind| {
            let mut all = vec![lists::LOOKS, lists::EVERY_THREAD];
            all.extend(kind.lists());
            if kvm && kind.uses_kvm() {
                all.push(lists::KVM);
            }
            if kvm && kind == ThreadKind::Vcpu {
                all.push(lists::KVM_VCPU);
            }
            Ok((kind, allow(&all)?))
        };
        let mut base = vec![lists::LOOKS, lists::EVERY_THREAD, lists::BUILDING];
        let kinds = ThreadKind::OF_MACHINE.iter().filter(|kind| **kind != ThreadKind::Supervisor);
        base.extend(kinds.flat_map(|kind| kind.lists()));
        if kvm {
            base.push(lists::KVM_BUILDING);
        }
        Ok(Self {
            looks: answer(&[lists::ANSWERED, lists::ANSWERED_OPENS])?,
            base: allow(&base)?,
            kinds: ThreadKind::OF_MACHINE.into_iter().map(kind).collect::<io::Result<_>>()?,
        })
    }

    /// The filters of a process that serves a directory: it opens files there, by descriptors of directories.
    ///
    /// # Errors
    /// When a list makes no filter.
    pub(crate) fn compile_for_share() -> io::Result<Self> {
        let kind = |kind: ThreadKind| {
            let mut all = vec![lists::LOOKS, lists::EVERY_THREAD];
            all.extend(kind.lists());
            Ok((kind, allow(&all)?))
        };
        let mut base = vec![lists::LOOKS, lists::EVERY_THREAD, lists::BUILDING, lists::SHARE_BUILDING];
        base.extend(ThreadKind::OF_SHARE.iter().flat_map(|kind| kind.lists()));
        Ok(Self {
            looks: answer(&[lists::ANSWERED, lists::ANSWERED_SHARE_OPENS])?,
            base: allow(&base)?,
            kinds: ThreadKind::OF_SHARE.into_iter().map(kind).collect::<io::Result<_>>()?,
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
        let filter = self.kinds.iter().find(|(known, _)| *known == kind);
        // A kind that a process of this sort does not have is no reason to go without.
        let (_, filter) = filter.ok_or(io::ErrorKind::InvalidInput)?;
        apply(filter)
    }
}

/// A filter that lets these calls pass, looks among them: they are answered by a filter of their own.
fn allow(lists: &[&[Rule]]) -> io::Result<BpfProgram> {
    compile(lists, SeccompAction::Trap, SeccompAction::Allow)
}

/// A filter that answers these calls: there is no such file.
fn answer(lists: &[&[Rule]]) -> io::Result<BpfProgram> {
    compile(lists, SeccompAction::Allow, SeccompAction::Errno(libc::ENOENT as u32))
}

fn apply(filter: &BpfProgram) -> io::Result<()> {
    seccompiler::apply_filter(filter).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_made_and_fit_the_kernel() {
        let machines = [false, true].map(|kvm| Filters::compile(kvm).unwrap());
        for filters in machines.iter().chain([&Filters::compile_for_share().unwrap()]) {
            let kinds = filters.kinds.iter().map(|(_, filter)| filter);
            for filter in kinds.chain([&filters.base, &filters.looks]) {
                assert!((1..4096).contains(&filter.len()), "{}", filter.len());
            }
        }
    }

    #[test]
    fn rings_are_for_disks_and_who_stops_them_and_sockets_for_networks() {
        let allows =
            |kind: ThreadKind, call| kind.lists().iter().copied().flatten().any(|rule| rule.call == call);
        for kind in ThreadKind::OF_MACHINE {
            let stops_disks = matches!(kind, ThreadKind::Control | ThreadKind::Vcpu | ThreadKind::Disk);
            assert_eq!(allows(kind, libc::SYS_io_uring_enter), stops_disks, "{kind:?}");
            assert!(!allows(kind, libc::SYS_io_uring_register), "{kind:?}");
            for call in [libc::SYS_socket, libc::SYS_connect, libc::SYS_bind] {
                assert_eq!(allows(kind, call), kind == ThreadKind::Network, "{kind:?}");
            }
            assert!(!allows(kind, libc::SYS_openat2), "{kind:?}");
        }
        for kind in ThreadKind::OF_SHARE {
            assert!(!allows(kind, libc::SYS_socket), "{kind:?}");
            assert_eq!(allows(kind, libc::SYS_openat2), kind == ThreadKind::Share, "{kind:?}");
        }
    }
}
