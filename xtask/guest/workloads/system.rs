//! What the standard library has no safe name for: processes, file systems and modules.

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_ulong, c_void};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

// SAFETY: `waitpid` writes one number where it is told, and a program that forks has one thread, so that all of it lives on
// in a child of `fork`. The others are only called below.
unsafe extern "C" {
    safe fn fork() -> c_int;
    safe fn _exit(status: c_int) -> !;
    safe fn waitpid(pid: c_int, status: &mut c_int, options: c_int) -> c_int;
    safe fn reboot(command: c_int) -> c_int;
    fn mount(
        source: *const c_char,
        target: *const c_char,
        kind: *const c_char,
        flags: c_ulong,
        data: *const c_void,
    ) -> c_int;
    fn syscall(number: c_long, ...) -> c_long;
}

/// `LINUX_REBOOT_CMD_POWER_OFF`
const POWER_OFF: c_int = 0x4321_fedc;
/// `MS_RDONLY`
const READ_ONLY: c_ulong = 1;
/// `SYS_finit_module`
const FINIT_MODULE: c_long = 313;

/// `SYS_madvise` and `MADV_NOHUGEPAGE`
const MADVISE: c_long = 28;
const SMALL_PAGES: c_int = 15;

/// Where a guest mounts the root file system.
pub const GUESTS_ROOT: &str = "/root";
/// The disk that it is on.
pub const DISK: &str = "/dev/vda";
/// Where the initial RAM disk has modules, and the file with their names in order.
const MODULES: &str = "/modules";
const ORDER: &str = "order";

/// Mounts the file system of a guest's disk, read-only. The disk's driver is loaded.
pub fn mount_guests_root() {
    await_file(Path::new(DISK));
    mount_at(DISK, Path::new(GUESTS_ROOT), "ext4", READ_ONLY);
}

/// Loads the modules of the initial RAM disk.
pub fn load_modules() {
    mount_at("devtmpfs", Path::new("/dev"), "devtmpfs", 0);
    // A kernel that has all drivers built in needs no modules.
    let order = fs::read_to_string(Path::new(MODULES).join(ORDER)).unwrap_or_default();
    for name in order.lines() {
        let file = File::open(Path::new(MODULES).join(name)).expect("the module is there");
        // SAFETY: the arguments are a descriptor, a string and flags, as the call takes them. It may fail, for hardware
        // that is not there; what is missed shows later.
        unsafe { syscall(FINIT_MODULE, file.as_raw_fd(), c"".as_ptr(), 0) };
    }
}

/// Waits for a file that a driver makes; whoever opens it sees if it did not come.
pub fn await_file(path: &Path) {
    for _ in 0..2000 {
        if path.exists() {
            break;
        }
        sleep(Duration::from_millis(10));
    }
}

/// Makes a mounted root file system this program's own, with what programs expect beside it.
pub fn enter(root: &Path) {
    mount_at("proc", &root.join("proc"), "proc", 0);
    mount_at("devtmpfs", &root.join("dev"), "devtmpfs", 0);
    mount_at("tmpfs", &root.join("tmp"), "tmpfs", 0);
    std::os::unix::fs::chroot(root).expect("root may change its root");
    std::env::set_current_dir("/tmp").expect("it was mounted just now");
}

pub fn mount_at(source: &str, target: &Path, kind: &str, flags: c_ulong) {
    fs::create_dir_all(target).expect("a directory to mount on");
    let text = |bytes: &[u8]| CString::new(bytes).expect("no zeros in it");
    let (source, place, kind) =
        (text(source.as_bytes()), text(target.as_os_str().as_bytes()), text(kind.as_bytes()));
    let text = CStr::as_ptr;
    // SAFETY: three strings that end with a zero, and no data.
    let done = unsafe { mount(text(&source), text(&place), text(&kind), flags, std::ptr::null()) };
    assert!(done == 0, "mounting {source:?} on {place:?}: {}", io::Error::last_os_error());
}

/// Has this memory, as far as it is whole pages, come in the smallest ones, whatever the kernel prefers.
pub fn use_small_pages(memory: &mut [u8]) {
    let skipped = memory.as_ptr().align_offset(1 << 12).min(memory.len());
    let memory = &mut memory[skipped..];
    let length = memory.len() & !0xfff;
    // SAFETY: the range is within memory that is held here, and its content stays. A kernel that has no other pages
    // refuses.
    unsafe { syscall(MADVISE, memory.as_mut_ptr(), length, SMALL_PAGES) };
}

/// Switches the machine off.
pub fn power_off() {
    reboot(POWER_OFF);
}

/// Starts a child that does this; its process id.
pub fn start(work: impl FnOnce() -> i32) -> i32 {
    let pid = fork();
    if pid == 0 {
        _exit(work());
    }
    assert!(pid > 0, "forking: {}", io::Error::last_os_error());
    pid
}

/// Waits for the end of a child; the status as the kernel gives it.
pub fn wait(pid: i32) -> i32 {
    let mut status = 0;
    assert_eq!(waitpid(pid, &mut status, 0), pid, "the child is there");
    status
}
