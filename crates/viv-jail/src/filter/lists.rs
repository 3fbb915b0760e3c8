//! The lists: what each kind of thread may call. Why, and how to find what a new feature needs: `docs/security/jail.md`.

use libc::*;

use super::rule::Test::{Is, Lacks, Masked, NotZero, OwnProcess};
use super::rule::{Rule, Test, any, when};

/// Bits of a mapping's rights, the third argument of mmap and mprotect, that no thread may ask for.
const NO_CODE: &[Test] = &[Lacks(2, PROT_EXEC as u64)];

/// How libraries look whether a file is there.
pub(super) const LOOKS: &[Rule] =
    &[any(SYS_openat), any(SYS_newfstatat), any(SYS_statx), any(SYS_readlink), any(SYS_access)];

/// Those of [`LOOKS`] that are answered: there is no such file. The others are about descriptors.
pub(super) const ANSWERED: &[Rule] = &[
    any(SYS_readlink),
    any(SYS_access),
    when(SYS_newfstatat, &[Masked(3, AT_EMPTY_PATH as u32, 0)]),
    when(SYS_statx, &[Masked(2, AT_EMPTY_PATH as u32, 0)]),
];

/// As [`ANSWERED`], where no file is opened.
pub(super) const ANSWERED_OPENS: &[Rule] = &[any(SYS_openat)];

/// As [`ANSWERED`], where files are opened by descriptors alone: what libraries look for would be the guest's to put there.
pub(super) const ANSWERED_SHARE_OPENS: &[Rule] = &[when(SYS_openat, &[Is(0, AT_FDCWD as u32)])];

/// What any Rust thread does: memory that holds no code, locks, events, time, its end.
pub(super) const EVERY_THREAD: &[Rule] = &[
    when(SYS_mmap, NO_CODE),
    when(SYS_mprotect, NO_CODE),
    any(SYS_munmap),
    // With a length of 0, or one that overflows to it, or when it leaves the old one there, it would make a second mapping
    // of shared memory, code among it.
    when(SYS_mremap, &[NotZero(1), Lacks(1, 1 << 63), Is(3, MREMAP_MAYMOVE as u32)]),
    any(SYS_madvise),
    any(SYS_brk),
    any(SYS_futex),
    any(SYS_sched_yield),
    // Events of other threads, and what goes to standard error.
    any(SYS_read),
    any(SYS_write),
    any(SYS_close),
    // Rust's own check, in development builds, of what it closes.
    when(SYS_fcntl, &[Is(1, F_GETFD as u32)]),
    // The seeds of hash maps.
    any(SYS_getrandom),
    // Where the host's time is not in the vDSO.
    any(SYS_clock_gettime),
    any(SYS_clock_nanosleep),
    any(SYS_restart_syscall),
    any(SYS_getpid),
    any(SYS_gettid),
    // Signals of faults are handled, and set back when nobody claims one. SIGSYS and SIGABRT stay as they are.
    any(SYS_rt_sigreturn),
    any(SYS_rt_sigprocmask),
    any(SYS_sigaltstack),
    when(SYS_rt_sigaction, &[Is(0, SIGSEGV as u32)]),
    when(SYS_rt_sigaction, &[Is(0, SIGBUS as u32)]),
    when(SYS_rt_sigaction, &[Is(0, SIGFPE as u32)]),
    when(SYS_rt_sigaction, &[Is(0, SIGILL as u32)]),
    when(SYS_rt_sigaction, &[Is(0, SIGTRAP as u32)]),
    // The last words, abort() and SIGTERM's note to the control thread.
    when(SYS_prctl, &[Is(0, PR_GET_NAME as u32)]),
    when(SYS_tgkill, &[OwnProcess(0), Is(2, SIGABRT as u32)]),
    any(SYS_sendto),
    any(SYS_exit),
    any(SYS_exit_group),
];

/// Waiting for descriptors.
pub(super) const WAIT: &[Rule] = &[any(SYS_ppoll), any(SYS_epoll_pwait)];

/// Files that are open: disks, kernels, flash memory, guest memory; and their space, given back.
pub(super) const FILES: &[Rule] = &[
    any(SYS_fstat),
    any(SYS_lseek),
    any(SYS_pread64),
    any(SYS_pwrite64),
    any(SYS_fdatasync),
    any(SYS_fallocate),
];

/// Devices arm timers for what is due later.
pub(super) const TIMERS: &[Rule] = &[any(SYS_timerfd_settime)];

/// Making vCPUs of KVM look up, by real-time signals to their threads.
pub(super) const SIGNALS: &[Rule] = &[when(SYS_tgkill, &[OwnProcess(0)])];

/// Requests, debuggers, files that are complete.
pub(super) const CONTROL: &[Rule] = &[
    any(SYS_recvmsg),
    any(SYS_sendmsg),
    any(SYS_recvfrom),
    any(SYS_accept4),
    when(SYS_setsockopt, &[Is(1, SOL_SOCKET as u32), Is(2, SO_SNDTIMEO_NEW as u32)]),
    when(SYS_setsockopt, &[Is(1, IPPROTO_TCP as u32), Is(2, TCP_NODELAY as u32)]),
    any(SYS_fsync),
];

/// What the alarm's thread does.
pub(super) const ALARM: &[Rule] = &[when(SYS_prctl, &[Is(0, PR_SET_TIMERSLACK as u32)])];

/// Rings that are set up already. Who stops a disk waits for what is in flight.
pub(super) const DISK: &[Rule] = &[any(SYS_io_uring_enter)];

/// Mapped files, flushed.
pub(super) const PMEM: &[Rule] = &[any(SYS_fdatasync)];

/// Sockets of the Internet's protocols, and nothing to be called by.
pub(super) const NETWORK: &[Rule] = &[
    when(SYS_socket, &[Is(0, AF_INET as u32)]),
    when(SYS_socket, &[Is(0, AF_INET6 as u32)]),
    any(SYS_connect),
    any(SYS_bind),
    any(SYS_listen),
    any(SYS_accept4),
    any(SYS_shutdown),
    any(SYS_getsockname),
    any(SYS_getpeername),
    any(SYS_getsockopt),
    any(SYS_setsockopt),
    any(SYS_recvfrom),
    any(SYS_recvmsg),
    any(SYS_sendmsg),
    any(SYS_readv),
    any(SYS_writev),
    any(SYS_epoll_ctl),
    any(SYS_timerfd_settime),
    when(SYS_fcntl, &[Is(1, F_GETFL as u32)]),
    when(SYS_fcntl, &[Is(1, F_SETFL as u32)]),
    when(SYS_ioctl, &[Is(1, FIONBIO as u32)]),
];

/// Sockets that come by an open one: taken from a listener, or passed along with a message.
pub(super) const VSOCK: &[Rule] =
    &[any(SYS_accept4), any(SYS_recvfrom), any(SYS_recvmsg), any(SYS_shutdown), any(SYS_epoll_ctl)];

/// What a guest's driver chooses of a tap interface: offloads, and which queues are in use (include/uapi/linux/if_tun.h).
pub(super) const TAP: &[Rule] =
    &[when(SYS_ioctl, &[Is(1, 0x4004_54d0)]), when(SYS_ioctl, &[Is(1, 0x4004_54d9)])];

/// Files and names in a shared directory. Users and groups are changed for what is made as somebody else.
pub(super) const SHARE: &[Rule] = &[
    any(SYS_openat2),
    any(SYS_fstat),
    any(SYS_fstatfs),
    any(SYS_fchmod),
    any(SYS_fchmodat),
    any(SYS_fchownat),
    any(SYS_ftruncate),
    any(SYS_utimensat),
    any(SYS_readlinkat),
    any(SYS_symlinkat),
    any(SYS_mknodat),
    any(SYS_mkdirat),
    any(SYS_linkat),
    any(SYS_unlinkat),
    any(SYS_renameat2),
    any(SYS_getdents64),
    any(SYS_lseek),
    any(SYS_pread64),
    any(SYS_preadv),
    any(SYS_pwrite64),
    any(SYS_pwritev2),
    any(SYS_fsync),
    any(SYS_fdatasync),
    any(SYS_syncfs),
    any(SYS_fallocate),
    any(SYS_copy_file_range),
    any(SYS_getxattr),
    any(SYS_setxattr),
    any(SYS_listxattr),
    any(SYS_removexattr),
    any(SYS_setresuid),
    any(SYS_setresgid),
];

/// Messages about rings and guest memory, which come as files.
pub(super) const SHARE_CONTROL: &[Rule] =
    &[any(SYS_recvmsg), any(SYS_recvfrom), any(SYS_sendmsg), any(SYS_lseek), any(SYS_epoll_ctl)];

/// What a server does before the guest can ask it anything.
pub(super) const SHARE_BUILDING: &[Rule] = &[any(SYS_umask)];

/// Messages with descriptors beside them, over a socket that is connected.
pub(super) const BACK_END: &[Rule] = &[any(SYS_recvmsg), any(SYS_sendmsg)];

/// Giving up a device's back end.
pub(super) const HANG_UP: &[Rule] = &[any(SYS_shutdown)];

/// Building a machine, before it runs: its memory, its code, its threads, their filters.
pub(super) const BUILDING: &[Rule] = &[
    any(SYS_mprotect),
    // The software engine's second mappings.
    any(SYS_mremap),
    any(SYS_memfd_create),
    any(SYS_fcntl),
    any(SYS_ftruncate),
    any(SYS_eventfd2),
    any(SYS_timerfd_create),
    any(SYS_epoll_create1),
    any(SYS_epoll_ctl),
    any(SYS_pipe2),
    any(SYS_dup),
    any(SYS_io_uring_setup),
    any(SYS_io_uring_register),
    // BLKPBSZGET: the sectors of a host's disk.
    when(SYS_ioctl, &[Is(1, 0x127b)]),
    any(SYS_clone),
    any(SYS_clone3),
    any(SYS_set_robust_list),
    any(SYS_rseq),
    any(SYS_sched_getaffinity),
    any(SYS_prctl),
    any(SYS_seccomp),
    any(SYS_prlimit64),
    any(SYS_rt_sigaction),
];

/// The supervisor's: waiting, and saying how it ended.
pub(super) const SUPERVISOR: &[Rule] = &[any(SYS_wait4), any(SYS_sendmsg)];

/// The type of KVM's requests, in the second byte.
const KVM_TYPE: u32 = 0xae00;
/// Type and number of a request.
const REQUEST: u32 = 0xffff;

/// A request to KVM by its number (include/uapi/linux/kvm.h).
const fn kvm(tests: &'static [Test; 1]) -> Rule {
    when(SYS_ioctl, tests)
}

/// Any request to KVM.
pub(super) const KVM_BUILDING: &[Rule] = &[kvm(&[Masked(1, 0xff00, KVM_TYPE)])];

/// Interrupts, memory, state: what is asked of KVM while a machine runs and when it is saved.
pub(super) const KVM: &[Rule] = &[
    // KVM_GET_DIRTY_LOG, KVM_SET_USER_MEMORY_REGION, KVM_RESET_DIRTY_RINGS
    kvm(&[Masked(1, REQUEST, KVM_TYPE | 0x42)]),
    kvm(&[Masked(1, REQUEST, KVM_TYPE | 0x46)]),
    kvm(&[Masked(1, REQUEST, KVM_TYPE | 0xc7)]),
    // KVM_SET_GSI_ROUTING, KVM_IRQFD, KVM_IOEVENTFD
    kvm(&[Masked(1, REQUEST, KVM_TYPE | 0x6a)]),
    kvm(&[Masked(1, REQUEST, KVM_TYPE | 0x76)]),
    kvm(&[Masked(1, REQUEST, KVM_TYPE | 0x79)]),
    // KVM_SET_CLOCK, KVM_GET_CLOCK
    kvm(&[Masked(1, REQUEST, KVM_TYPE | 0x7b)]),
    kvm(&[Masked(1, REQUEST, KVM_TYPE | 0x7c)]),
    // KVM_GET_REGS, KVM_SET_REGS, KVM_GET_SREGS, KVM_SET_SREGS
    kvm(&[Masked(1, REQUEST, KVM_TYPE | 0x81)]),
    kvm(&[Masked(1, REQUEST, KVM_TYPE | 0x82)]),
    kvm(&[Masked(1, REQUEST, KVM_TYPE | 0x83)]),
    kvm(&[Masked(1, REQUEST, KVM_TYPE | 0x84)]),
    // KVM_TRANSLATE, KVM_GET_MSRS, KVM_SET_MSRS, KVM_GET_LAPIC, KVM_SET_LAPIC
    kvm(&[Masked(1, REQUEST, KVM_TYPE | 0x85)]),
    kvm(&[Masked(1, REQUEST, KVM_TYPE | 0x88)]),
    kvm(&[Masked(1, REQUEST, KVM_TYPE | 0x89)]),
    kvm(&[Masked(1, REQUEST, KVM_TYPE | 0x8e)]),
    kvm(&[Masked(1, REQUEST, KVM_TYPE | 0x8f)]),
    // KVM_GET_MP_STATE, KVM_SET_MP_STATE, KVM_SET_GUEST_DEBUG
    kvm(&[Masked(1, REQUEST, KVM_TYPE | 0x98)]),
    kvm(&[Masked(1, REQUEST, KVM_TYPE | 0x99)]),
    kvm(&[Masked(1, REQUEST, KVM_TYPE | 0x9b)]),
    // KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS
    kvm(&[Masked(1, REQUEST, KVM_TYPE | 0x9f)]),
    kvm(&[Masked(1, REQUEST, KVM_TYPE | 0xa0)]),
    kvm(&[Masked(1, REQUEST, KVM_TYPE | 0xa1)]),
    kvm(&[Masked(1, REQUEST, KVM_TYPE | 0xa2)]),
    // KVM_GET_XSAVE, KVM_SET_XSAVE and KVM_SIGNAL_MSI, KVM_GET_XCRS, KVM_SET_XCRS
    kvm(&[Masked(1, REQUEST, KVM_TYPE | 0xa4)]),
    kvm(&[Masked(1, REQUEST, KVM_TYPE | 0xa5)]),
    kvm(&[Masked(1, REQUEST, KVM_TYPE | 0xa6)]),
    kvm(&[Masked(1, REQUEST, KVM_TYPE | 0xa7)]),
    // KVM_SET_DEVICE_ATTR: the offset of a vCPU's TSC.
    kvm(&[Masked(1, REQUEST, KVM_TYPE | 0xe1)]),
];

/// KVM_RUN.
pub(super) const KVM_VCPU: &[Rule] = &[kvm(&[Masked(1, REQUEST, KVM_TYPE | 0x80)])];
