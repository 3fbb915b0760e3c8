//! The way down.

use std::fs;

use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::system::{RebootCommand, reboot};

use crate::report;

/// Asks every process to end, the stopped ones included, which must run to do so.
pub(crate) fn ask_all_to_end() {
    for signal in [Signal::TERM, Signal::CONT] {
        signal_all(signal);
    }
}

/// Ends every process.
pub(crate) fn kill_all() {
    signal_all(Signal::KILL);
}

/// kill(2) with -1, "every process but the first", which is what the negated group 1 comes to.
fn signal_all(signal: Signal) {
    // Fails if there is none.
    let _ = kill_process_group(Pid::INIT, signal);
}

/// Writes everything back and switches the machine off. Processes are to have ended before.
pub(crate) fn down() -> ! {
    kill_all();
    rustix::fs::sync();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for target in later_mounts(&mounts) {
        // What is still busy gets written back by the remount or the sync all the same.
        let _ = unmount(target.as_str(), UnmountFlags::empty());
    }
    if let Err(errno) = mount_remount("/", MountFlags::RDONLY, "") {
        report::problem(&format!("making the root file system read-only: {errno}"));
    }
    rustix::fs::sync();
    if let Err(errno) = reboot(RebootCommand::PowerOff) {
        report::problem(&format!("powering off: {errno}"));
    }
    loop {
        std::thread::park();
    }
}

/// Mount points of real file systems other than `/`, the last mounted first.
fn later_mounts(mounts: &str) -> Vec<String> {
    let mut targets: Vec<String> = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let (_, target, kind) = (fields.next()?, fields.next()?, fields.next()?);
            // These live in memory, and `/proc` and `/dev` are wanted to the end.
            let lasting =
                !matches!(kind, "proc" | "sysfs" | "devtmpfs" | "devpts" | "tmpfs" | "cgroup2" | "rootfs");
            (lasting && target != "/").then(|| unescape(target))
        })
        .collect();
    targets.reverse();
    targets
}

/// Undoes the octal escapes of `/proc/self/mounts` (proc(5)).
fn unescape(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_mounts_are_found_in_reverse() {
        let mounts = "/dev/vda / ext4 rw 0 0\nproc /proc proc rw 0 0\n/dev/vdb /data ext4 rw 0 0\n\
                      /dev/vdc /data/a\\040b vfat rw 0 0\ntmpfs /run tmpfs rw 0 0\nbroken\n";
        assert_eq!(later_mounts(mounts), ["/data/a b", "/data"]);
    }
}
