//! The program behind `cargo xtask bench processors`: work for several processors at once, timed by the clock of the
//! system that it runs on. It is for `rustc` alone, linked statically, and switches the machine off if it is its first
//! process. What it prints is what `guest/workloads` prints.

use std::hint::black_box;
use std::io::{Write, stdin, stdout};
use std::os::fd::AsFd;
use std::thread;
use std::time::Instant;

// SAFETY: it takes any number.
unsafe extern "C" {
    safe fn reboot(command: i32) -> i32;
}

/// `LINUX_REBOOT_CMD_POWER_OFF`
const POWER_OFF: i32 = 0x4321_fedc;

/// Each row's name, on how many threads it runs, and what each of them does.
const ROWS: [(&str, usize, fn()); 3] = [("busy-1", 1, busy), ("busy-2", 2, busy), ("locks-4", 4, locks)];

fn main() {
    for (name, threads, work) in ROWS {
        say(&format!("@begin {name}"));
        let begun = Instant::now();
        thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
        say(&format!("@end {name} {:.6} {threads}", begun.elapsed().as_secs_f64()));
    }
    if std::process::id() == 1 {
        reboot(POWER_OFF);
    }
}

/// Never lets go of its processor by itself.
fn busy() {
    let end = (0..1_000_000_000u64).fold(1u64, |state, n| black_box(state.rotate_left(5) ^ n));
    black_box(end);
}

/// Takes a spin lock of the kernel's, that of the process's table of descriptors, again and again.
fn locks() {
    for _ in 0..100_000 {
        stdin().as_fd().try_clone_to_owned().expect("a descriptor");
    }
}

/// A line that is out when this returns.
fn say(line: &str) {
    let mut out = stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("standard output takes a line");
}
