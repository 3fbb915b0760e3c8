//! The program behind `cargo xtask bench devices`: pieces of work for a guest's devices, each timed by the clock of the
//! system that it runs on. It is built, started and speaks as the one in `../workloads`:
//!
//! ```text
//! devices --list       the names of all rows
//! devices FILE ROW…    the rows, all if none is named, on this file, through the cache
//! devices ROW…         as process 1: the same on the first virtio disk, past the cache; then it powers off
//! ```
//!
//! - [`disk`]: rows for disks. Those of other devices go beside it.

mod disk;
#[path = "../workloads/system.rs"]
#[allow(dead_code)]
mod system;

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use disk::{Disk, Row};

fn main() {
    std::panic::set_hook(Box::new(|panic| say(&format!("@failed {}", panic.to_string().replace('\n', " ")))));
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words == ["--list"] {
        disk::ROWS.iter().for_each(|row| say(row.name));
        return;
    }
    if std::process::id() == 1 {
        system::make_disk_ready();
        run(&Disk::open(Path::new(system::DISK), true), &words);
        system::power_off();
    } else {
        let (file, names) = words.split_first().expect("the first argument is the file");
        run(&Disk::open(Path::new(file), false), names);
    }
}

/// Runs the rows of these names, all if there is none.
fn run(disk: &Disk, names: &[String]) {
    for name in names {
        assert!(disk::ROWS.iter().any(|row| row.name == name), "there is no row {name}");
    }
    for row in disk::ROWS.iter().filter(|row| names.is_empty() || names.iter().any(|name| name == row.name)) {
        measure(disk, row);
    }
}

fn measure(disk: &Disk, row: &Row) {
    say(&format!("@begin {}", row.name));
    let begun = Instant::now();
    let result = disk.work(row);
    let took = begun.elapsed().as_secs_f64();
    say(&format!("@end {} {took:.6} {result:016x}", row.name));
}

/// A line that is out when this returns.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("standard output takes a line");
}
