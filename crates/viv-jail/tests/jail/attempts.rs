//! What an attacker tries.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read};
use std::ptr;

use libc::*;
use viv_jail::ThreadKind;

/// What is open when the jail is entered.
pub struct Open {
    pub file: File,
}

/// How an attempt ends.
pub enum Outcome {
    /// With an error.
    Refused,
    /// With the process, on this system call.
    Killed(&'static str),
}

/// An attempt.
pub struct Attempt {
    pub name: &'static str,
    pub outcome: Outcome,
    /// The kind of thread that does it in its daily work.
    except: Option<ThreadKind>,
}

impl Attempt {
    pub fn is_allowed_to(&self, kind: ThreadKind) -> bool {
        self.except == Some(kind)
    }
}

const fn killed(name: &'static str, call: &'static str) -> Attempt {
    Attempt { name, outcome: Outcome::Killed(call), except: None }
}

pub const ATTEMPTS: [Attempt; 32] = [
    Attempt { name: "open", outcome: Outcome::Refused, except: None },
    Attempt { name: "stat", outcome: Outcome::Refused, except: None },
    killed("openat2", "openat2"),
    killed("openat2-above", "openat2"),
    killed("openat2-of-links", "openat2"),
    killed("unlink", "unlink"),
    Attempt { name: "socket", outcome: Outcome::Killed("socket"), except: Some(ThreadKind::Network) },
    killed("unix-socket", "socket"),
    Attempt { name: "connect", outcome: Outcome::Killed("connect"), except: Some(ThreadKind::Network) },
    killed("fork", "clone"),
    killed("thread", "clone3"),
    killed("execve", "execve"),
    killed("ptrace", "ptrace"),
    killed("read-a-process", "process_vm_readv"),
    killed("write-a-process", "process_vm_writev"),
    killed("kill", "kill"),
    killed("signal-another-process", "tgkill"),
    killed("map-code", "mmap"),
    killed("make-code", "mprotect"),
    killed("double-a-mapping", "mremap"),
    killed("double-a-mapping-by-overflow", "mremap"),
    killed("double-a-mapping-and-keep-it", "mremap"),
    killed("mount", "mount"),
    killed("unshare", "unshare"),
    killed("setns", "setns"),
    killed("chroot", "chroot"),
    killed("bpf", "bpf"),
    killed("perf", "perf_event_open"),
    killed("userfaultfd", "userfaultfd"),
    killed("rings", "io_uring_setup"),
    killed("type-on-the-terminal", "ioctl"),
    killed("ignore-violations", "rt_sigaction"),
];

/// Opens a file for reading, by any way there is.
fn open_anywhere(path: &CStr) -> c_long {
    let how = [O_RDONLY as u64, 0, 0];
    // SAFETY: the kernel reads a path and a structure of the length that it is told.
    unsafe { syscall(SYS_openat2, AT_FDCWD, path.as_ptr(), how.as_ptr(), size_of_val(&how)) }
}

/// Does it. An error is a refusal.
pub fn run(name: &str, open: &Open) -> io::Result<()> {
    const NONE: usize = 0;
    let page = || {
        // SAFETY: new pages at an address of the kernel's choice.
        unsafe { mmap(ptr::null_mut(), 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) }
    };
    // SAFETY: whatever these calls do to the process, it ends after them.
    let result = unsafe {
        match name {
            "open" => return File::open("/etc/passwd").map(drop),
            "stat" => return std::fs::metadata("/etc/passwd").map(drop),
            "openat2" => open_anywhere(c"/etc/passwd"),
            "openat2-above" => open_anywhere(c"../../../../../../../etc/passwd"),
            // Of the process that waits, which is outside.
            "openat2-of-links" => open_anywhere(c"../../1/root/etc/passwd"),
            "openat2-below" => open_anywhere(c"/Cargo.toml"),
            "unlink" => unlink(c"/nonexistent".as_ptr()).into(),
            "socket" => socket(AF_INET, SOCK_STREAM, 0).into(),
            "unix-socket" => socket(AF_UNIX, SOCK_STREAM, 0).into(),
            "connect" => connect(0, ptr::null(), 0).into(),
            "fork" => fork().into(),
            "thread" => syscall(SYS_clone3, NONE, NONE),
            "execve" => execve(c"/bin/true".as_ptr(), [ptr::null()].as_ptr(), [ptr::null()].as_ptr()).into(),
            "ptrace" => ptrace(PTRACE_ATTACH, 1, NONE, NONE),
            "read-a-process" => process_vm_readv(1, ptr::null(), 0, ptr::null(), 0, 0) as c_long,
            "write-a-process" => process_vm_writev(1, ptr::null(), 0, ptr::null(), 0, 0) as c_long,
            "kill" => kill(-1, SIGTERM).into(),
            "signal-another-process" => syscall(SYS_tgkill, 424_242, 424_242, SIGTERM),
            "map-code" => {
                let rights = PROT_READ | PROT_EXEC;
                mmap(ptr::null_mut(), 4096, rights, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) as c_long
            }
            "make-code" => mprotect(page(), 4096, PROT_READ | PROT_EXEC).into(),
            "double-a-mapping" => mremap(page(), 0, 4096, MREMAP_MAYMOVE) as c_long,
            "double-a-mapping-by-overflow" => mremap(page(), usize::MAX, 4096, MREMAP_MAYMOVE) as c_long,
            "double-a-mapping-and-keep-it" => {
                mremap(page(), 4096, 4096, MREMAP_MAYMOVE | MREMAP_DONTUNMAP) as c_long
            }
            "mount" => mount(ptr::null(), c"/".as_ptr(), c"tmpfs".as_ptr(), 0, ptr::null()).into(),
            "unshare" => unshare(CLONE_NEWUSER).into(),
            "setns" => setns(0, 0).into(),
            "chroot" => chroot(c"/".as_ptr()).into(),
            "bpf" => syscall(SYS_bpf, NONE, NONE, NONE),
            "perf" => syscall(SYS_perf_event_open, NONE, NONE, NONE, NONE, NONE),
            "userfaultfd" => syscall(SYS_userfaultfd, NONE),
            "rings" => syscall(SYS_io_uring_setup, 1, page()),
            "type-on-the-terminal" => ioctl(0, TIOCSTI, c"x".as_ptr()).into(),
            "ignore-violations" => signal(SIGSYS, SIG_IGN) as c_long,
            "read-open-file" => return (&open.file).read_exact(&mut [0]),
            "abort" => abort(),
            "fault" => {
                ptr::null_mut::<u8>().wrapping_add(8).write_volatile(1);
                0
            }
            other => panic!("there is no attempt {other}"),
        }
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
