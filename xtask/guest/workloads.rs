//! The program behind `cargo xtask bench guest`: small pieces of work, each timed by the clock of the system
//! that it runs on.
//!
//! It is one file for `rustc` alone, linked statically, so that it can be the only program of a guest. For each
//! workload it prints a line when it begins and one when it ends, with the seconds and a number that follows from
//! the work's result:
//!
//! ```text
//! @begin integer-loop
//! @end integer-loop 0.123456 9e3779b97f4a7c15
//! ```
//!
//! As the first process of a guest it switches the machine off at the end. Programs of the system are only run if
//! they are there.

use std::hint::black_box;
use std::io::{Read, Write, pipe};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

// What the standard library has no safe name for.
// SAFETY: `waitpid` writes one number where it is told, and this program has one thread, so that all of it lives on
// in a child of `fork`.
unsafe extern "C" {
    safe fn fork() -> i32;
    safe fn _exit(status: i32) -> !;
    safe fn waitpid(pid: i32, status: &mut i32, options: i32) -> i32;
    safe fn reboot(command: i32) -> i32;
}

/// `LINUX_REBOOT_CMD_POWER_OFF`
const POWER_OFF: i32 = 0x4321_fedc;

fn main() {
    measure("integer-loop", integer_loop);
    measure("pointer-chase", pointer_chase);
    measure("matrix-product", matrix_product);
    measure("getppid", getppid);
    measure("fork-exit", fork_exit);
    measure("pipe-ping-pong", pipe_ping_pong);
    measure("mmap-touch", mmap_touch);
    let text = text(1 << 20);
    for (name, times, words) in [
        ("sha256sum", 4, &["/usr/bin/sha256sum"][..]),
        ("gzip", 1, &["/usr/bin/gzip", "-6", "-n"]),
        ("xz", 1, &["/usr/bin/xz", "-1"]),
        ("sort", 1, &["/usr/bin/sort"]),
        ("perl", 1, &["/usr/bin/perl", "-e", PERL]),
        ("bash-fork", 1, &["/usr/bin/bash", "-c", "for i in {1..30}; do /usr/bin/true; done"]),
    ] {
        if Path::new(words[0]).exists() {
            measure(name, || (0..times).fold(0, |sum: u64, _| sum.rotate_left(1) ^ filter(words, &text)));
        }
    }
    if std::process::id() == 1 {
        reboot(POWER_OFF);
    }
}

fn measure(name: &str, work: impl FnOnce() -> u64) {
    say(&format!("@begin {name}"));
    let begun = Instant::now();
    let result = work();
    let took = begun.elapsed().as_secs_f64();
    say(&format!("@end {name} {took:.6} {result:016x}"));
}

/// A line that is out when this returns.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("standard output takes a line");
}

/// Numbers that are the same everywhere (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Additions, shifts and branches in registers.
fn integer_loop() -> u64 {
    let mut value = black_box(1_u64);
    for i in 0..20_000_000_u64 {
        value = value.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(i);
        value ^= value >> 29;
    }
    value
}

/// One load after another, each at an address that the last one gave, in 8 MiB.
fn pointer_chase() -> u64 {
    const LENGTH: usize = 1 << 20;
    let mut numbers = Numbers(1);
    // A single cycle through all places (Sattolo).
    let mut next: Vec<u64> = (0..LENGTH as u64).collect();
    for i in (1..LENGTH).rev() {
        next.swap(i, numbers.next() as usize % i);
    }
    let mut at = 0;
    for _ in 0..2_000_000 {
        at = next[at] as usize;
    }
    at as u64
}

/// Products of matrices of doubles, four columns at a time.
fn matrix_product() -> u64 {
    const N: usize = 128;
    let a: Vec<f64> = (0..N * N).map(|i| (i % 7) as f64).collect();
    let b: Vec<f64> = (0..N * N).map(|i| (i % 5) as f64).collect();
    let mut c = vec![0.0; N * N];
    for _ in 0..4 {
        for (row, a) in c.chunks_exact_mut(N).zip(a.chunks_exact(N)) {
            for (a, b) in a.iter().zip(b.chunks_exact(N)) {
                for (c, b) in row.iter_mut().zip(b) {
                    *c += a * b;
                }
            }
        }
    }
    black_box(&c).iter().sum::<f64>().to_bits()
}

/// The cheapest system call.
fn getppid() -> u64 {
    (0..200_000).filter(|_| black_box(std::os::unix::process::parent_id()) == u32::MAX).count() as u64
}

/// Processes that end at once, one after another.
fn fork_exit() -> u64 {
    (0..200).map(|i| child(|| i & 0x7f)).fold(0, |sum, status| sum * 31 + status as u64)
}

/// A byte to another process and back.
fn pipe_ping_pong() -> u64 {
    const TIMES: usize = 5000;
    let (mut there, mut to_there) = pipe().expect("a pipe");
    let (mut here, mut to_here) = pipe().expect("a pipe");
    let mut byte = [0];
    let pid = fork();
    if pid == 0 {
        for _ in 0..TIMES {
            there.read_exact(&mut byte).expect("a ping");
            to_here.write_all(&[byte[0].wrapping_mul(5).wrapping_add(1)]).expect("a reader");
        }
        _exit(0);
    }
    for _ in 0..TIMES {
        to_there.write_all(&byte).expect("a reader");
        here.read_exact(&mut byte).expect("a pong");
    }
    u64::from(byte[0]) << 8 | wait(pid) as u64
}

/// Memory had, touched and given back: a page fault for each page.
fn mmap_touch() -> u64 {
    const PAGES: usize = 12_800;
    // So large that the allocator asks the kernel, which gives pages of zeros.
    let mut memory = vec![0_u8; PAGES << 12];
    for page in 0..PAGES {
        memory[page << 12] = 1;
    }
    black_box(&memory).iter().step_by(1 << 12).map(|&byte| u64::from(byte)).sum()
}

/// Text that compresses about as well as prose.
fn text(length: usize) -> Vec<u8> {
    let mut numbers = Numbers(7);
    let words: Vec<Vec<u8>> = (0..500)
        .map(|_| (0..2 + numbers.next() % 8).map(|_| b'a' + (numbers.next() % 26) as u8).collect())
        .collect();
    let mut text = Vec::new();
    while text.len() < length {
        let pick = numbers.next();
        text.extend(&words[(pick % 500).min(pick >> 32 & 0x1ff) as usize]);
        text.push(if pick >> 48 & 7 == 0 { b'\n' } else { b' ' });
    }
    text
}

/// A loop over strings, numbers and a hash.
const PERL: &str = r#"
    my (%seen, $sum); local $/; my $text = <STDIN>;
    $seen{$_}++ for split /\s+/, $text;
    $sum += $seen{$_} * length for sort keys %seen;
    for my $i (1 .. 300000) { $sum = ($sum * 33 + $i) % 1000003 }
    print "$sum\n";
"#;

/// Runs a program over `input`, and hashes what it writes.
fn filter(words: &[&str], input: &[u8]) -> u64 {
    let mut child = Command::new(words[0])
        .args(&words[1..])
        .env_clear()
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("piped");
    let stdout = child.stdout.take().expect("piped");
    // In a process of its own, for both pipes may be full at once.
    let pid = fork();
    if pid == 0 {
        drop(stdout);
        // A program that does not read its input is none the worse.
        let _ = stdin.write_all(input);
        drop(stdin);
        _exit(0);
    }
    drop(stdin);
    let hash = std::io::BufReader::new(stdout).bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte.expect("output"))).wrapping_mul(0x100_0000_01b3)
    });
    wait(pid);
    assert!(child.wait().expect("the program ends").success(), "{} fails", words[0]);
    hash
}

/// The exit status of a child that does this.
fn child(work: impl FnOnce() -> i32) -> i32 {
    let pid = fork();
    if pid == 0 {
        _exit(work());
    }
    wait(pid)
}

fn wait(pid: i32) -> i32 {
    let mut status = 0;
    assert_eq!(waitpid(pid, &mut status, 0), pid, "the child is there");
    status
}
