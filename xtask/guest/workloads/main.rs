//! The program behind `cargo xtask bench guest`: pieces of work, each timed by the clock of the system that it runs
//! on.
//!
//! It is for `rustc` alone, linked statically, so that it can be the first process of a guest:
//!
//! ```text
//! workloads --list        the names of all rows
//! workloads ROOT ROW…     the rows, all if none is named, in the root file system that is mounted at ROOT
//! workloads ROW…          as process 1: the same in the root file system of the first virtio disk; then it powers off
//! ```
//!
//! For each row it prints a line when the work begins and one when it ends, with the seconds and a number that follows
//! from what the work came to; and a line of its own when something fails:
//!
//! ```text
//! @begin integer-loop
//! @end integer-loop 0.123456 9e3779b97f4a7c15
//! @failed what and where
//! ```
//!
//! What a row needs is made ready before its clock starts: its input, and the files of programs that it runs, which are
//! read once so that they are in memory.
//!
//! - [`own`]: rows that are done in here. [`programs`]: rows that programs of the root file system do, with
//!   [`inputs`] for them.
//! - [`system`]: what the standard library has no safe name for.

mod inputs;
mod own;
mod programs;
mod system;

use std::io::Write;
use std::path::Path;
use std::time::Instant;

/// What a piece of work came to.
enum Outcome {
    /// This.
    Number(u64),
    /// What is in this file.
    File(&'static str),
}

/// Work that is ready to begin.
type Work = Box<dyn FnOnce() -> Outcome>;

/// A row: its name, and how its work is made ready.
type Row = (&'static str, fn() -> Work);

const ROWS: &[Row] = &[
    ("integer-loop", own::integer_loop),
    ("pointer-chase", own::pointer_chase),
    ("matrix-product", own::matrix_product),
    ("shell-sort", own::shell_sort),
    ("getppid", own::getppid),
    ("pipe-ping-pong", own::pipe_ping_pong),
    ("fork-exit", own::fork_exit),
    ("fork-exec", own::fork_exec),
    ("mmap-touch", own::mmap_touch),
    ("python-nbody", programs::python_nbody),
    ("openssl-sha256", programs::openssl_sha256),
    ("openssl-aes-gcm", programs::openssl_aes_gcm),
    ("sha256sum", programs::sha256sum),
    ("xz", programs::xz),
    ("gzip", programs::gzip),
    ("sqlite", programs::sqlite),
    ("gcc", programs::gcc),
    ("perl", programs::perl),
    ("sort", programs::sort),
    ("bash-fork", programs::bash_fork),
    ("find", programs::find),
];

fn main() {
    std::panic::set_hook(Box::new(|panic| say(&format!("@failed {}", panic.to_string().replace('\n', " ")))));
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words == ["--list"] {
        ROWS.iter().for_each(|(name, _)| say(name));
        return;
    }
    let is_guest = std::process::id() == 1;
    if is_guest {
        system::load_modules();
        system::mount_guests_root();
        run(Path::new(system::GUESTS_ROOT), &words);
        system::power_off();
    } else {
        let (root, names) =
            words.split_first().expect("the first argument is the root file system's directory");
        run(Path::new(root), names);
    }
}

/// Runs the rows of these names, all if there is none.
fn run(root: &Path, names: &[String]) {
    for name in names {
        assert!(ROWS.iter().any(|(row, _)| row == name), "there is no row {name}");
    }
    system::enter(root);
    for (name, ready) in ROWS {
        if names.is_empty() || names.iter().any(|wanted| wanted == name) {
            measure(name, ready());
        }
    }
}

fn measure(name: &str, work: Work) {
    say(&format!("@begin {name}"));
    let begun = Instant::now();
    let outcome = work();
    let took = begun.elapsed().as_secs_f64();
    let result = match outcome {
        Outcome::Number(number) => number,
        Outcome::File(path) => hash(&std::fs::read(path).expect("the work left a file")),
    };
    say(&format!("@end {name} {took:.6} {result:016x}"));
}

/// FNV-1a, by words of eight bytes.
fn hash(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(0xcbf2_9ce4_8422_2325 ^ bytes.len() as u64, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x100_0000_01b3)
    })
}

/// A line that is out when this returns.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("standard output takes a line");
}
